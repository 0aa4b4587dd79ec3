import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mvit_det.engine.trainer import Trainer


class Regression(nn.Module):
    """A model with a detector's interface: batches in, a dict of losses out."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.dtypes = []

    def forward(self, batch):
        output = self.layer(batch)
        self.dtypes.append(output.dtype)
        return {"loss_mean": output.mean(), "loss_square": output.float().square().mean()}


def make_trainer(**arguments):
    torch.manual_seed(0)
    model = Regression()
    batches = [torch.randn(3, 4) for _ in range(5)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return Trainer(model, batches, optimizer, device="cpu", **arguments), batches


def train(trainer, iterations):
    with EventStorage():
        trainer.train(0, iterations)


def test_steps_equal_a_plain_loop():
    trainer, batches = make_trainer()
    train(trainer, 3)
    torch.manual_seed(0)
    model = Regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for batch in batches[:3]:
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    for actual, expected in zip(trainer.model.parameters(), model.parameters()):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("norm", [1e-3, 0.1])
def test_gradients_are_clipped_to_their_common_norm(norm):
    trainer, _ = make_trainer(clip_gradient_norm=norm)
    before = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
    train(trainer, 1)
    after = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
    assert (after - before).norm() == pytest.approx(0.5 * norm, rel=1e-3)


def test_bf16_computes_in_bf16_and_keeps_parameters_in_fp32():
    trainer, _ = make_trainer(amp_dtype="bf16")
    train(trainer, 2)
    assert trainer.model.dtypes == [torch.bfloat16] * 2
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert not trainer.grad_scaler.is_enabled()


def test_state_goes_on_where_it_was_saved():
    trainer, batches = make_trainer()
    train(trainer, 2)
    again, _ = make_trainer()
    again.model.load_state_dict(trainer.model.state_dict())
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert again.iter == trainer.iter
    for runner in (trainer, again):
        runner.data_loader = [batches[2]]
        runner._data_loader_iter_obj = None
        with EventStorage():
            runner.train(2, 3)
    for actual, expected in zip(again.model.parameters(), trainer.model.parameters()):
        assert torch.equal(actual, expected)
