"""Detectors on the CPU: the same numbers, in several threads and another layout."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import ROIAlign
from detectron2.utils.events import EventStorage

from mvit_det.acceleration import ThreadedROIAlign, accelerate, keep_memory
from mvit_det.benchmarking.workload import random_images
from tests.export.detectors import make_detector


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def regions(count):
    corners = torch.rand(count, 2, 2) * 100
    images = torch.randint(0, 2, (count, 1)).float()
    return torch.cat([images, corners.amin(1), corners.amax(1)], dim=1)


@pytest.mark.parametrize("count", [0, 5, 61])
@pytest.mark.parametrize("ratio", [0, 2])
def test_threads_pool_the_same_numbers(count, ratio, two_threads):
    torch.manual_seed(0)
    layer = ROIAlign(7, spatial_scale=0.25, sampling_ratio=ratio, aligned=True)
    boxes = regions(count)
    inputs = [torch.randn(2, 4, 25, 30, requires_grad=True) for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [pool(x, boxes) for pool, x in zip((layer, ThreadedROIAlign(layer)), inputs)]
    assert torch.equal(*outputs)
    for output in outputs:
        (output * torch.linspace(0, 1, 7)).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_autocast_reaches_the_threads(two_threads):
    torch.manual_seed(0)
    layer = ROIAlign(7, spatial_scale=0.25, sampling_ratio=0, aligned=True)
    features, boxes = torch.randn(2, 4, 25, 30).bfloat16(), regions(61)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(features, boxes), ThreadedROIAlign(layer)(features, boxes)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_detectors_find_the_same(tmp_path, two_threads):
    config, weights = make_detector("mask_rcnn", tmp_path)
    model = instantiate(config.model).eval()
    model.load_state_dict(torch.load(weights)["model"])
    accelerated = copy.deepcopy(model)
    for _ in range(2):
        accelerate(accelerated)
    assert accelerated.state_dict().keys() == model.state_dict().keys()
    image = {"image": torch.randint(0, 256, (3, 96, 128))}
    with torch.no_grad():
        (expected,), (found,) = model([image]), accelerated([image])
    expected, found = expected["instances"], found["instances"]
    assert len(expected) > 20
    boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(*boxes, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-4


def test_training_steps_are_the_same(tmp_path, two_threads):
    config, weights = make_detector("mask_rcnn", tmp_path)
    model = instantiate(config.model).train()
    model.load_state_dict(torch.load(weights)["model"])
    accelerated = copy.deepcopy(model)
    accelerate(accelerated)
    torch.manual_seed(0)
    batch = random_images((96, 128), 2)
    losses, gradients = [], []
    for each in (model, accelerated):
        torch.manual_seed(0)
        with EventStorage():
            outputs = each(batch)
        sum(outputs.values()).backward()
        losses.append(outputs)
        gradients.append({name: p.grad for name, p in each.named_parameters()})
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    assert losses[0]["loss_mask"] > 0
    for name, expected in gradients[0].items():
        difference = (gradients[1][name] - expected).norm()
        # Sums in another order let a few ReLUs near zero open or close.
        assert difference <= 1e-3 * expected.norm() + 1e-6, name


def test_thresholds_of_the_environment_win(monkeypatch):
    keep_memory.cache_clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert not keep_memory()
    keep_memory.cache_clear()
