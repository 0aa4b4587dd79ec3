"""Attention with position terms through the fused kernels of PyTorch.

`F.scaled_dot_product_attention` takes no decomposed terms, and a bias of size queries × keys would
cost what the kernels save. So the terms join the product: [Q · scale, terms] · [K, one-hot
coordinates]ᵀ is the whole logit. `flex_attention` reads the terms where it computes a logit.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention import flex_attention as torch_flex


def sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Leaves the choice to PyTorch. Flash attention drops out, as the value is narrower.

    On a CPU that leaves none but the plain implementation, which writes all logits.
    """
    if not terms:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    query, key = _with_terms(query, key, terms, scale)
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)


def padded_sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Leaves the choice to PyTorch, flash attention included: pads the value to equal widths."""
    if not terms:
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    query, key = _with_terms(query, key, terms, scale)
    padded = F.pad(value, (0, query.shape[-1] - value.shape[-1]))
    output = F.scaled_dot_product_attention(query, key, padded, scale=1.0)
    return output[..., : value.shape[-1]]


def memory_efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Forces the memory-efficient kernel of CUDA."""
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return sdpa_attention(query, key, value, terms, scale)


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Forces flash attention; on CUDA for half precision and widths up to 256, terms included."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return padded_sdpa_attention(query, key, value, terms, scale)


def cudnn_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Forces the kernel of cuDNN, for CUDA in half precision."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa_attention(query, key, value, terms, scale)


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Compiles a kernel that adds the terms to each logit. On a CPU: forward pass only."""
    sizes = [term.shape[-1] for term in terms]
    before_grid = key.shape[-2] - math.prod(sizes)

    def add_terms(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, index: Tensor) -> Tensor:
        on_grid = index >= before_grid
        rest = torch.where(on_grid, index - before_grid, 0)
        total = torch.zeros_like(score)
        for term, size in zip(reversed(terms), reversed(sizes)):
            total = total + term[batch, head, row, rest % size]
            rest = rest // size
        return score + torch.where(on_grid, total, 0.0)

    run = torch_flex.flex_attention
    if query.device.type == "cuda" and not torch.compiler.is_compiling():
        run = _compiled_flex_attention()
    return run(query, key, value, score_mod=add_terms if terms else None, scale=scale)


def _with_terms(
    query: Tensor, key: Tensor, terms: Sequence[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """Query and key, widened so that their product is the whole logit."""
    sizes = [term.shape[-1] for term in terms]
    before_grid = key.shape[-2] - math.prod(sizes)
    coordinates = []
    for axis, size in enumerate(sizes):
        one_hot = torch.eye(size, dtype=key.dtype, device=key.device)
        one_hot = one_hot.view(*(size if i == axis else 1 for i in range(len(sizes))), size)
        coordinates.append(one_hot.expand(*sizes, size).flatten(0, -2))
    # (keys, sum of the sizes), zeros before the grid
    positions = F.pad(torch.cat(coordinates, dim=-1), (0, 0, before_grid, 0))
    positions = positions.expand(*key.shape[:2], -1, -1)
    # The fused kernels want widths that are multiples of eight.
    fill = -(key.shape[-1] + sum(sizes)) % 8
    query = F.pad(torch.cat([query * scale, *terms], dim=-1), (0, fill))
    return query, F.pad(torch.cat([key, positions], dim=-1), (0, fill))


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(torch_flex.flex_attention)
