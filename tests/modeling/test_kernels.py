"""Every attention kernel against the definition, on grids of one to three axes."""

import contextlib

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from mvit_det.modeling.kernels import (
    ATTENTION_KERNELS,
    attention,
    attention_kernel,
    plain_operators,
    use_attention_kernel,
)
from mvit_det.modeling.kernels import blocked_attention as module

SCALE = 0.3
# Sizes of the grid of keys, and keys before it.
GRIDS = [((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 1), ((7,), 0), ((), 12)]


def definition(query, key, value, terms, scale):
    """The whole logits, position terms and all."""
    logits = scale * query @ key.transpose(-2, -1)
    if terms:
        sizes = [term.shape[-1] for term in terms]
        position = 0
        for axis, term in enumerate(terms):
            shape = [size if i == axis else 1 for i, size in enumerate(sizes)]
            position = position + term.unflatten(-1, shape)
        before_grid = key.shape[-2] - position[0, 0, 0].numel()
        logits[..., before_grid:] += position.flatten(3)
    return logits.softmax(-1) @ value


def make_inputs(grid=(3, 5), before_grid=0, batch=3, heads=2, queries=20, dtype=torch.float64):
    """Query, key and value of width 8, and the terms, flat."""
    generator = torch.Generator().manual_seed(0)
    keys = before_grid + (torch.Size(grid).numel() if grid else 0)
    shapes = [(queries, 8), (keys, 8), (keys, 8), *((queries, size) for size in grid)]
    return [
        torch.randn(batch, heads, *shape, dtype=dtype, generator=generator).requires_grad_()
        for shape in shapes
    ]


def run(kernel, inputs):
    query, key, value, *terms = inputs
    return kernel(query, key, value, terms, SCALE)


@pytest.mark.parametrize("name", ["blocked", "sdpa", "padded_sdpa"])
@pytest.mark.parametrize(("grid", "before_grid"), GRIDS)
def test_output_and_gradients_equal_the_definition(name, grid, before_grid):
    inputs = make_inputs(grid, before_grid)
    expected, actual = run(definition, inputs), run(ATTENTION_KERNELS[name], inputs)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    )


@pytest.mark.parametrize("block_logits", [100, 7])
def test_blocks_of_windows_and_of_single_queries(block_logits, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_LOGITS", block_logits)
    monkeypatch.setattr(module, "LEAST_QUERIES", 1)
    test_output_and_gradients_equal_the_definition("blocked", (3, 5), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("grid", "before_grid"), GRIDS)
def test_flash_attention_forced(grid, before_grid, dtype):
    """The fused kernel of the CPU, in whose forward and backward pass no logits are written."""
    exact = make_inputs(grid, before_grid)
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    expected, actual = run(definition, exact), run(ATTENTION_KERNELS["flash"], inputs)
    assert "FlashAttention" in str(actual.grad_fn.next_functions) + str(actual.grad_fn)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    assert (actual - expected).norm() <= tolerance * expected.norm()
    grad = torch.randn_like(expected)
    for actual_grad, expected_grad in zip(
        torch.autograd.grad(actual, inputs, grad.to(dtype)),
        torch.autograd.grad(expected, exact, grad),
    ):
        assert (actual_grad - expected_grad).norm() <= 2 * tolerance * expected_grad.norm()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("grid", "before_grid"), GRIDS)
def test_flex_attention_equals_the_definition(grid, before_grid):
    inputs = [tensor.detach().float() for tensor in make_inputs(grid, before_grid)]
    expected, actual = run(definition, inputs), run(ATTENTION_KERNELS["flex"], inputs)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["memory_efficient", "cudnn"])
def test_kernels_of_cuda_do_not_fall_back(name):
    with pytest.raises(RuntimeError, match="No available kernel|No viable backend"):
        run(ATTENTION_KERNELS[name], make_inputs(dtype=torch.float32))


def test_choice_of_the_kernel():
    query = torch.zeros(1, 1, 1, 8)
    assert attention_kernel(query) == "blocked"
    assert attention_kernel(torch.empty(1, 1, 1, 8, device="meta")) == "sdpa"
    with plain_operators():
        assert attention_kernel(query) == "sdpa"
    with use_attention_kernel("flash"):
        assert attention_kernel(query) == "flash"
    assert attention_kernel(query) == "blocked"
    with pytest.raises(ValueError, match="'fast'"), use_attention_kernel("fast"):
        pass


def test_operator_is_well_behaved():
    query, key, value, *terms = (
        tensor.flatten(0, 1).detach().requires_grad_() for tensor in make_inputs(before_grid=1)
    )
    torch.library.opcheck(module.attention_operator, (query, key, value, terms, SCALE))


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(batch):
    output = run(attention, make_inputs(batch=batch))
    assert output.shape == (batch, 2, 20, 8)
    output.sum().backward()


def test_autocast_computes_in_the_lower_precision():
    inputs = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(attention, inputs)
    assert output.dtype == torch.bfloat16
    assert (output - run(definition, inputs)).norm() < 2e-2 * output.norm()


@pytest.mark.parametrize("name", ["blocked", "padded_sdpa"])
def test_a_constant_in_the_logits_changes_nothing(name):
    """Softmax does not see what all keys of a query have in common, however large."""
    query, key, value, height, width = make_inputs(dtype=torch.float32)
    expected = run(ATTENTION_KERNELS[name], (query, key, value, height, width))
    actual = run(ATTENTION_KERNELS[name], (query, key, value, height + 1e3, width - 1e3))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["blocked", "sdpa", "flash"])
def test_large_activations_do_not_overflow_in_fp16(name):
    """Products of query and key, and terms, that leave the range of fp16 if not scaled."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(12, 96), (12, 96), (12, 96), (12, 3), (12, 4)]
    inputs = [torch.randn(1, 1, *size, generator=generator) for size in sizes]
    inputs = [x * factor for x, factor in zip(inputs, (100, 100, 1, 1e4, 1e4))]
    query, key, value, *terms = inputs
    expected = definition(query, key, value, terms, 96**-0.5)
    query, key, value, *terms = (tensor.half() for tensor in inputs)
    output = ATTENTION_KERNELS[name](query, key, value, terms, 96**-0.5)
    assert output.isfinite().all()
    assert (output.float() - expected).norm() <= 0.1 * expected.norm()


def test_forced_backends_leave_no_trace():
    """Other code in the process keeps its own choice."""
    with sdpa_kernel(SDPBackend.MATH):
        with contextlib.suppress(RuntimeError):
            run(ATTENTION_KERNELS["flash"], make_inputs(dtype=torch.float32))
        assert torch.backends.cuda.math_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
