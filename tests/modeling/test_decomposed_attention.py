import pytest
import torch

from mvit_det.modeling import decomposed_attention as module
from mvit_det.modeling.decomposed_attention import (
    augmented_attention,
    blocked_attention,
    decomposed_attention,
)

SCALE = 0.3


def naive_attention(query, key, value, height, width, scale):
    """The definition: the whole logits, biases and all."""
    logits = scale * query @ key.transpose(-2, -1)
    logits = logits + (height[..., :, None] + width[..., None, :]).flatten(-2)
    return logits.softmax(-1) @ value


def make_inputs(batch=3, heads=2, queries=20, key_grid=(3, 5), channels=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    keys = key_grid[0] * key_grid[1]
    shapes = [(queries, channels), (keys, channels), (keys, channels)]
    shapes += [(queries, key_grid[0]), (queries, key_grid[1])]
    return [
        torch.randn(batch, heads, *shape, dtype=dtype, generator=generator).requires_grad_()
        for shape in shapes
    ]


def blocked(*inputs):
    *tensors, scale = inputs
    output = blocked_attention(*(tensor.flatten(0, 1) for tensor in tensors), scale)
    return output.view_as(tensors[0])


@pytest.fixture(params=[2**20, 100, 7])
def block_logits(request, monkeypatch):
    """Blocks that hold everything, several windows, part of a window, and a single query."""
    monkeypatch.setattr(module, "BLOCK_LOGITS", request.param)
    monkeypatch.setattr(module, "LEAST_QUERIES", 1)


@pytest.mark.usefixtures("block_logits")
@pytest.mark.parametrize("attention", [blocked, augmented_attention, decomposed_attention])
def test_output_and_gradients_equal_the_definition(attention):
    inputs = make_inputs()
    expected = naive_attention(*inputs, SCALE)
    actual = attention(*inputs, SCALE)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, grad)
    for actual_grad, expected_grad in zip(
        torch.autograd.grad(actual, inputs, grad), expected_grads
    ):
        torch.testing.assert_close(actual_grad, expected_grad)


def test_blocked_attention_is_a_well_behaved_operator():
    inputs = [tensor.flatten(0, 1).detach().requires_grad_() for tensor in make_inputs()]
    torch.library.opcheck(blocked_attention, (*inputs, SCALE))


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(batch):
    inputs = make_inputs(batch=batch)
    output = decomposed_attention(*inputs, SCALE)
    assert output.shape == (batch, 2, 20, 8)
    output.sum().backward()


def test_autocast_computes_in_the_lower_precision():
    inputs = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = decomposed_attention(*inputs, SCALE)
    assert output.dtype == torch.bfloat16
    error = (output - naive_attention(*inputs, SCALE)).norm() / output.norm()
    assert error < 2e-2


@pytest.mark.parametrize("attention", [blocked, augmented_attention])
def test_shared_constant_in_the_logits_changes_nothing(attention):
    """Softmax does not see what all keys of a query have in common, however large."""
    query, key, value, height, width = make_inputs(dtype=torch.float32)
    expected = attention(query, key, value, height, width, SCALE)
    actual = attention(query, key, value, height + 1e3, width - 1e3, SCALE)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
