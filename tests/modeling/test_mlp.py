import pytest
import torch
import torch.nn.functional as F

from mvit_det.modeling.kernels import blocked_mlp
from mvit_det.modeling.kernels import mlp as module
from mvit_det.modeling.layers import Mlp


def make_inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = [(23, 6), (24, 6), (24,), (5, 24), (5,)]
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in shapes
    ]


def plain_mlp(x, weight1, bias1, weight2, bias2):
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


@pytest.mark.parametrize("block_hidden", [2**20, 24 * 7, 1])
def test_output_and_gradients_equal_the_definition(block_hidden, monkeypatch):
    """With everything in one block, several blocks with a rest, and a block per token."""
    monkeypatch.setattr(module, "BLOCK_HIDDEN", block_hidden)
    monkeypatch.setattr(module, "LARGEST_HIDDEN", 0)
    inputs = make_inputs()
    expected, actual = plain_mlp(*inputs), blocked_mlp(*inputs)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, inputs, grad)
    for actual_grad, expected_grad in zip(
        torch.autograd.grad(actual, inputs, grad), expected_grads
    ):
        torch.testing.assert_close(actual_grad, expected_grad)


def test_is_a_well_behaved_operator():
    torch.library.opcheck(blocked_mlp, tuple(make_inputs()))


def test_layer_is_the_definition_in_any_precision():
    torch.manual_seed(0)
    mlp, x = Mlp(4, 16, 5), torch.randn(2, 3, 7, 4)
    expected = mlp.fc2(F.gelu(mlp.fc1(x)))
    torch.testing.assert_close(mlp(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        output = mlp(x)
    assert output.dtype == torch.bfloat16
    assert (output - expected).norm() <= 2e-2 * expected.norm()


def test_hidden_layer_is_not_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        Mlp(4, 16, 4)(torch.randn(10, 4, requires_grad=True))
    assert (10, 16) not in kept
