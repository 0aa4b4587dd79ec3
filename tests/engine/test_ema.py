import math

import pytest
import torch
from torch import nn

from mvit_det.engine.ema import ModelEMA


def make(decay=0.9, warmup=0):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    model[2].requires_grad_(False)
    return model, ModelEMA(model, decay, warmup)


def walk(model, average, steps):
    """Sets the weight to 1, 2, … and takes each into the average."""
    for step in range(1, steps + 1):
        nn.init.constant_(model[0].weight, step)
        average.update()


@pytest.mark.parametrize("warmup", [0, 3])
def test_average_follows_its_formula(warmup):
    model, average = make(0.9, warmup)
    nn.init.constant_(average.average["0.weight"], 0.0)
    walk(model, average, 5)
    expected = 0.0
    for step in range(1, 6):
        decay = 0.9 * (1 - math.exp(-step / warmup)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * step
    assert average.average["0.weight"].unique().item() == pytest.approx(expected)


def test_only_what_is_trained_is_averaged():
    _, average = make()
    assert list(average.average) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_applied_average_gives_way_to_the_weights_again():
    model, average = make()
    walk(model, average, 3)
    averaged = average.average["0.weight"].clone()
    with average.applied():
        assert torch.equal(model[0].weight, averaged)
    assert model[0].weight.unique().item() == 3
    assert torch.equal(average.average["0.weight"], averaged)


def test_weights_come_back_after_an_error():
    model, average = make()
    walk(model, average, 3)
    with pytest.raises(RuntimeError, match="in between"), average.applied():
        raise RuntimeError("in between")
    assert model[0].weight.unique().item() == 3


def test_state_goes_on_where_it_was_saved():
    model, average = make(0.9, 3)
    walk(model, average, 2)
    other, again = make(0.9, 3)
    again.load_state_dict(average.state_dict())
    walk(model, average, 4)
    walk(other, again, 4)
    assert torch.equal(again.average["0.weight"], average.average["0.weight"])


def test_decay_out_of_range():
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1, not 1"):
        make(1.0)
