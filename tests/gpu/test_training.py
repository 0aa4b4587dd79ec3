"""Training steps, resuming, and several processes, on the GPU."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mvit_det.benchmarking.recipes import measure_recipes
from mvit_det.modeling import MViTv2
from tests.engine.trainings import load

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
PICO = ROOT / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
# Of weights, relative to their change: atomic additions on a GPU change the order of sums from run
# to run, and AdamW's first steps, as large for tiny gradients as for large ones, magnify that.
TOLERANCE = 0.3
EACH_STEP = ("train.log_period=1", "train.max_iter=4")


def relative_difference(first, second, start):
    """Distance of two models over the distance that the first one has moved from its start."""

    def distance(one, other):
        return sum((one[name] - other[name]).float().pow(2).sum() for name in one) ** 0.5

    return distance(first, second) / distance(first, start)


def test_gradients_equal_those_of_the_cpu(device):
    torch.manual_seed(0)
    model = MViTv2(depths=(1, 2, 2, 1), embed_dim=16, rel_pos_std=0.02)
    images = torch.randn(2, 3, 96, 128)
    weights = [torch.randn(2, 16 * 2**i, 24 // 2**i, 32 // 2**i) for i in range(4)]
    gradients = []
    for where in ("cpu", device):
        model.to(where).zero_grad()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = model(images.to(where)).values()
            sum((x.cpu() * weight).sum() for x, weight in zip(features, weights)).backward()
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters()})
    expected, found = gradients
    for name in expected:
        scale = expected[name.replace("norm_k.bias", "norm_k.weight")].norm()
        assert (found[name] - expected[name]).norm() < 1e-4 * scale, name


def test_memory_stays_within_its_estimate(device):
    (row,) = measure_recipes([PICO], device, (256, 256), (128, 128))
    assert all(seconds > 0 for seconds in row.seconds)
    assert row.allocated > 0
    if device == "cuda":
        estimate = row.estimate
        state = estimate.parameters + estimate.gradients + estimate.optimizer
        assert state < row.allocated < estimate.total


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains(run, device, dtype, tmp_path):
    if device == "cpu" and dtype == "fp16":
        pytest.skip("fp16 needs CUDA")
    run(tmp_path, "--device", device, f"train.amp.dtype={dtype}", *EACH_STEP)
    lines = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    losses = {line["iteration"]: line["total_loss"] for line in lines if "total_loss" in line}
    assert sorted(losses) == [0, 1, 2, 3]
    assert all(0 < loss < 100 for loss in losses.values())


@pytest.fixture(scope="module")
def unbroken(run, device, tmp_path_factory):
    """A training in one process, in two micro-batches."""
    output = tmp_path_factory.mktemp("unbroken")
    run(output, "--device", device, "--grad-accum-steps", "2", *EACH_STEP)
    return output


def test_a_resumed_training_goes_on_as_if_uninterrupted(run, device, unbroken, tmp_path):
    shutil.copy(unbroken / "model_0000002.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    run(tmp_path, "--device", device, "--resume", "--grad-accum-steps", "2", *EACH_STEP)
    expected, found = load(unbroken), load(tmp_path)
    assert found["iteration"] == 3
    start = load(tmp_path, "model_0000002")["model"]
    tolerance = TOLERANCE if device == "cuda" else 0
    assert relative_difference(expected["model"], found["model"], start) <= tolerance


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(run, device, unbroken, strategy, tmp_path):
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    options = ("--num-gpus", "2", "--dist-url", "auto", f"train.strategy={strategy}")
    run(tmp_path, "--device", device, *options, *EACH_STEP)
    expected, found = load(unbroken)["model"], load(tmp_path)["model"]
    start = load(unbroken, "model_0000002")["model"]
    tolerance = TOLERANCE if device == "cuda" else 0.05
    assert relative_difference(expected, found, start) <= tolerance
