"""An MLP whose hidden layer stays in the cache.

The hidden layer is four times as wide as the tokens, and that of a large grid does not fit into the
cache of a CPU: writing it to memory and reading it back takes as long as the arithmetic. Here a
block of tokens goes through the whole MLP before the next one does, and the backward pass computes
a block's hidden layer again instead of keeping it.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .products import add_product, product

# Hidden values of one block, 4 MB in fp32. From a quarter to the double of it is as fast.
BLOCK_HIDDEN = 2**20
# A hidden layer up to this size, 16 MB, fits into the cache whole and is best computed at once.
LARGEST_HIDDEN = 2**22


def _blocks(x: Tensor, weight1: Tensor) -> Iterator[slice]:
    """Cuts tokens into blocks of about `BLOCK_HIDDEN` hidden values, or takes all of them."""
    tokens, hidden = len(x), len(weight1)
    step = tokens if tokens * hidden <= LARGEST_HIDDEN else max(BLOCK_HIDDEN // hidden, 1)
    for start in range(0, tokens, step):
        yield slice(start, start + step)


@torch.library.custom_op("mvit_det::blocked_mlp", mutates_args=())
def blocked_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Two linear layers with GELU between them.

    Args:
        x: tokens, (N, C).
        weight1, bias1: the first layer, (hidden, C) and (hidden,).
        weight2, bias2: the second, (channels out, hidden) and (channels out,).

    Returns:
        (N, channels out).
    """
    output = x.new_empty(len(x), len(weight2))
    for block in _blocks(x, weight1):
        hidden = product(x[block], weight1, bias1)
        torch.ops.aten.gelu_(hidden)
        output[block] = product(hidden, weight2, bias2)
    return output


@blocked_mlp.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return x.new_empty(len(x), len(weight2))


@torch.library.custom_op("mvit_det::blocked_mlp_backward", mutates_args=())
def blocked_mlp_backward(
    grad: Tensor, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight1, bias1 and weight2, given that of the output."""
    grad_x = torch.empty_like(x)
    grad_weight1, grad_bias1, grad_weight2 = map(torch.zeros_like, (weight1, bias1, weight2))
    for block in _blocks(x, weight1):
        before = product(x[block], weight1, bias1)
        add_product(grad_weight2, grad[block].t(), F.gelu(before).t())
        grad_before = torch.ops.aten.gelu_backward(product(grad[block], weight2.t()), before)
        add_product(grad_weight1, grad_before.t(), x[block].t())
        grad_bias1 += grad_before.sum(0)
        add_product(grad_x[block], grad_before, weight1.t(), overwrite=True)
    return grad_x, grad_weight1, grad_bias1, grad_weight2


@blocked_mlp_backward.register_fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(map(torch.empty_like, inputs))


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    grad = grad.contiguous()
    return *blocked_mlp_backward(grad, *ctx.saved_tensors), grad.sum(0)


blocked_mlp.register_autograd(_backward, setup_context=_save_inputs)


@register_flop_formula(torch.ops.mvit_det.blocked_mlp)
def _count_operations(
    x: torch.Size, weight1: torch.Size, bias1: Any, weight2: torch.Size, *_: Any, **__: Any
) -> int:
    """For PyTorch's counter: two products, each of as many multiplications as additions."""
    return 2 * x[0] * (weight1.numel() + weight2.numel())
