"""The estimate of memory against counts by hand, and against the types and operators of CUDA."""

import contextlib
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mvit_det.benchmarking.memory_estimate import (
    RESERVE,
    RESERVE_SHARE,
    AsOnCuda,
    KeptTensors,
    MemoryEstimate,
    activation_bytes,
    estimate_memory,
    optimizer_bytes,
)
from mvit_det.benchmarking.workload import random_images
from mvit_det.config import load_config
from mvit_det.errors import ConfigError
from mvit_det.modeling import MViTv2, MViTv2Classifier
from mvit_det.modeling.kernels import custom_operators_enabled, plain_operators

PICO = dict(depths=(1, 2, 2, 1), embed_dim=16, num_heads=1, drop_path_rate=0.1)
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"


@pytest.fixture(scope="module")
def whole():
    """The estimate for the quick start's detector, with an EMA."""
    return estimate_memory(load_config(CONFIG, ["train.ema.enabled=True"]), (96, 128))


def test_an_mlp_keeps_what_a_count_by_hand_says():
    mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
    tokens = torch.randn(10, 8)
    # The input of each layer. Its weights are there anyway.
    assert activation_bytes(mlp, tokens, mixed_precision=False) == 10 * (8 + 32 + 32) * 4
    # And the copy in bf16 of those weights that a gradient passes on its way back.
    expected = 10 * (8 + 32 + 32) * 2 + 32 * 4 * 2
    assert activation_bytes(mlp, tokens, mixed_precision=True) == expected


def test_a_storage_counts_once_and_whole():
    weight, other = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    values = torch.randn(100, 4)
    kept = KeptTensors()
    with kept:
        values[:10] * weight
        values[50:60] * other
    assert kept.bytes == 100 * 4 * 4
    # Storages that follow each other at one address are as many.
    kept = KeptTensors()
    with kept:
        for _ in range(5):
            torch.randn(100, 4) * weight
    assert kept.bytes == 5 * 100 * 4 * 4
    kept = KeptTensors(known=[values])
    with kept:
        values * weight
    assert kept.bytes == 0


@contextlib.contextmanager
def autocast_on_cuda(enabled):
    """That of CUDA, which `torch.autocast` refuses where there is no GPU."""
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", False)


@pytest.mark.parametrize("mixed_precision", [True, False])
@pytest.mark.parametrize("size", [(64, 96), (96, 200)])
def test_counts_on_the_cpu_what_cuda_keeps(mixed_precision, size):
    """Tensors of CUDA without data take the way of a GPU, with its autocast, on any machine."""
    backbone = MViTv2(**PICO).train()
    counted = activation_bytes(backbone, torch.randn(2, 3, *size), mixed_precision)
    with FakeTensorMode(allow_non_fake_inputs=True), autocast_on_cuda(mixed_precision):
        backbone.to_empty(device="cuda")
        images = torch.empty(2, 3, *size, device="cuda")
        # Only the kernels of attention cannot be chosen without a GPU.
        expected = KeptTensors(backbone.parameters())
        with AsOnCuda(), expected:
            backbone(images)
    assert counted == expected.bytes


def test_plain_operators_end_with_their_block():
    def fail():
        assert not custom_operators_enabled()
        raise KeyError

    assert custom_operators_enabled()
    with pytest.raises(KeyError), plain_operators():
        fail()
    assert custom_operators_enabled()


def test_each_image_of_a_backbone_adds_the_same():
    backbone = MViTv2(**PICO).train()
    kept = [activation_bytes(backbone, torch.randn(n, 3, 64, 96), True) for n in (1, 2, 3, 5)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0
    assert kept[3] - kept[2] == 2 * (kept[1] - kept[0])


def test_each_image_of_a_detector_adds_the_same(whole):
    model = instantiate(load_config(CONFIG).model).train()
    kept = activation_bytes(model, random_images((96, 128), 5, objects=128), True)
    predicted = whole.activations_once + 5 * whole.activations_each
    assert kept == pytest.approx(predicted, rel=0.01)


def test_checkpointing_more_stages_needs_less():
    images = torch.randn(1, 3, 128, 128)
    needed = []
    for stages in (False, ("scale2",), ("scale2", "scale3"), True):
        backbone = MViTv2(**{**PICO, "depths": (2, 2, 2, 1)}, use_checkpoint=stages).train()
        needed.append(activation_bytes(backbone, images, True))
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] < 0.5 * needed[0]


@pytest.mark.parametrize("class_token", [False, True])
def test_checkpointing_a_classifier_needs_less(class_token):
    model = {**PICO, "depths": (2, 2, 2, 1), "class_token": class_token}
    needed, plain = (
        activation_bytes(
            MViTv2Classifier(10, **model, use_checkpoint=stages).train(),
            torch.randn(2, 3, 64, 64),
            True,
        )
        for stages in (True, False)
    )
    # The inputs of seven blocks, and what one of them needs when it is computed again.
    assert 0.2 * plain < needed < 0.6 * plain


def test_a_single_block_is_not_helped_by_checkpointing():
    """The backward pass computes again what is not kept."""
    block = dict(depths=(1,), embed_dim=16, num_heads=1, out_features=("scale2",))
    images = torch.randn(1, 3, 64, 64)
    plain, checkpointed = (
        activation_bytes(MViTv2(**block, use_checkpoint=use).train(), images, False)
        for use in (False, True)
    )
    # The norm of the output keeps its input and the statistics of each token.
    assert plain - checkpointed == 16 * 16 * (16 + 2) * 4


def test_parts_of_the_estimate(whole):
    model = instantiate(load_config(CONFIG).model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    assert whole.parameters == 4 * parameters + buffers
    assert whole.gradients == whole.ema == 4 * parameters
    # Two moments of each parameter, and a count of steps of each tensor.
    assert whole.optimizer == 8 * parameters + 4 * len(list(model.parameters()))
    assert whole.images == 4
    counted = 16 * parameters + 4 * len(list(model.parameters())) + 4 * parameters + buffers
    counted += whole.activations_once + 4 * whole.activations_each
    assert whole.counted == counted
    assert whole.total == counted + RESERVE + round(RESERVE_SHARE * counted)


def test_freezing_needs_less(whole):
    frozen = estimate_memory(
        load_config(CONFIG, ["train.ema.enabled=True", "model.backbone.bottom_up.freeze_at=3"]),
        (96, 128),
    )
    assert frozen.parameters == whole.parameters
    assert frozen.gradients == frozen.ema < whole.gradients
    assert frozen.optimizer < whole.optimizer
    assert frozen.activations_each < whole.activations_each


def test_settings_of_the_training_count(whole):
    plain = estimate_memory(
        load_config(CONFIG, ["train.grad_accum_steps=2", "train.amp.enabled=False"]), (96, 128)
    )
    assert plain.ema == 0
    assert plain.images == 2
    assert plain.activations_each > 1.3 * whole.activations_each


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"a batch of 4 images cannot be split into train\.grad_accum_steps=3 ",
    ):
        estimate_memory(load_config(CONFIG, ["train.grad_accum_steps=3"]), (96, 128))


@pytest.mark.parametrize("name", ["cascade_mask_rcnn", "panoptic_fpn", "retinanet"])
def test_other_detectors(name, whole):
    config = load_config(CONFIG.with_name(f"{name}_mvitv2_pico.py"))
    estimate = estimate_memory(config, (96, 128))
    model = instantiate(config.model)
    assert estimate.gradients == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 0.2 < estimate.activations_each / whole.activations_each < 5


def test_other_optimizers():
    settings = L(torch.optim.SGD)(params=L(parameters_of)(), lr=0.1, momentum=0.9)
    assert optimizer_bytes(OmegaConf.create(settings), nn.Linear(10, 10)) == 4 * 110
    settings.momentum = 0.0
    assert optimizer_bytes(OmegaConf.create(settings), nn.Linear(10, 10)) == 0


def parameters_of(model):
    return list(model.parameters())


def test_total_of_an_estimate():
    estimate = MemoryEstimate(1000, 200, 400, 200, 50, 100, images=3)
    assert estimate.activations == 350
    assert estimate.counted == 2150
    assert estimate.total == 2150 + RESERVE + 215
