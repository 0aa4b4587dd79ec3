"""The model on a GPU: every attention kernel, no copies to the host, no logits in memory."""

import copy

import pytest
import torch

import mvit_det
from mvit_det.modeling import MViTv2
from mvit_det.modeling.kernels import ATTENTION_KERNELS, attention_kernel, use_attention_kernel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

KERNELS = ["sdpa", "padded_sdpa", "memory_efficient", "flash", "cudnn", "flex"]
# These take half precision only.
HALF = ("flash", "cudnn")
PICO = dict(depths=(1, 2, 2, 1), embed_dim=32, num_heads=1, rel_pos_std=0.2)


def inputs_on(device, dtype, queries=300, grid=(10, 14), before_grid=1):
    generator = torch.Generator().manual_seed(0)
    keys = grid[0] * grid[1] + before_grid
    sizes = [(queries, 32), (keys, 32), (keys, 32), *((queries, side) for side in grid)]
    inputs = [torch.randn(2, 2, *size, generator=generator) for size in sizes]
    return [tensor.to(device, dtype).requires_grad_() for tensor in inputs]


def run(name, inputs):
    query, key, value, *terms = inputs
    return ATTENTION_KERNELS[name](query, key, value, terms, 32**-0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", KERNELS)
def test_kernel_equals_the_cpu(name, dtype):
    if dtype is torch.float32 and name in HALF:
        pytest.skip(f"{name} takes half precision only")
    reference, inputs = inputs_on("cpu", torch.float32), inputs_on("cuda", dtype)
    expected, actual = run("blocked", reference), run(name, inputs)
    tolerance = 5e-3 if dtype is torch.float32 else 3e-2
    assert (actual.cpu() - expected).norm() <= tolerance * expected.norm()
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad(actual, inputs, grad.to("cuda", dtype)),
        torch.autograd.grad(expected, reference, grad),
        strict=True,
    ):
        assert (one.cpu() - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_writes_no_queries_times_keys(name):
    inputs = inputs_on("cuda", torch.float16, queries=8192, grid=(64, 128), before_grid=0)
    run(name, inputs).sum().backward()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(name, inputs).sum().backward()
    logits = 2 * 2 * 2 * 8192**2
    assert torch.cuda.max_memory_allocated() - before < 0.5 * logits


def make_models():
    torch.manual_seed(0)
    return {
        "hwin": MViTv2(**PICO),
        "shifted_window": MViTv2(**PICO, attention="shifted_window"),
        "global": MViTv2(**PICO, attention="global", position="absolute+decomposed"),
        "classifier": mvit_det.mvitv2_t(num_classes=5, depths=(1, 1), drop_path_rate=0.0),
        "class_token": mvit_det.mvitv2_t(
            num_classes=5, class_token=True, depths=(1, 1), drop_path_rate=0.0
        ),
    }


@pytest.mark.parametrize("name", make_models())
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_model_equals_the_cpu_without_copies_to_the_host(name, dtype):
    model = make_models()[name]
    on_gpu = copy.deepcopy(model).cuda()
    images = torch.randn(2, 3, 96, 130)
    images_on_gpu = images.cuda()
    on_gpu(images_on_gpu)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype or torch.float16, enabled=dtype is not None):
            actual = on_gpu(images_on_gpu)
            loss = sum(value.float().square().mean() for value in as_dict(actual).values())
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    tolerance = 5e-2 if dtype else 1e-3
    for key, expected in as_dict(model(images)).items():
        error = (as_dict(actual)[key].float().cpu() - expected).norm()
        assert error <= tolerance * expected.norm()
    assert all(parameter.grad.isfinite().all() for parameter in on_gpu.parameters())


def as_dict(outputs):
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def test_sizes_given_to_masked_padding_need_no_copies_to_the_host():
    model = MViTv2(**PICO, mask_padding=True).cuda()
    images = torch.randn(2, 3, 96, 128, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(images, image_sizes=[(96, 128), (50, 60)])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_runs_the_model(name):
    model = MViTv2(**PICO).cuda()
    images = torch.randn(1, 3, 128, 128, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        expected = model(images)["scale5"]
        with use_attention_kernel(name):
            actual = model(images)["scale5"]
    assert (actual.float() - expected.float()).norm() <= 5e-2 * expected.float().norm()


def test_the_default_is_the_documented_one():
    assert attention_kernel(torch.zeros(1, device="cuda")) == "sdpa"
