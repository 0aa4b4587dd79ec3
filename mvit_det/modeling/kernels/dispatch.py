"""The one place that chooses how attention with decomposed position terms is computed.

All kernels compute softmax(scale · QKᵀ + E) V and have the same signature:

    query: (B, heads, queries, C).
    key: (B, heads, keys, C): keys before the grid, if any, then those of the grid, row by row.
    value: as `key`.
    terms: one tensor for each axis of the grid of keys, (B, heads, queries, keys along the axis).
        The logit of a key on the grid gets the sum of the terms of its coordinates, E. Keys before
        the grid, such as a class token, get none. Without any terms E is zero.
    scale: factor of the product of query and key.

    Returns (B, heads, queries, C).

None of them writes a tensor of size queries × keys, `sdpa` on a CPU excepted.

Choice of the kernel. On the CPU `blocked` was measured to be the fastest. Exported programs for
PyTorch use `padded_sdpa`, the layout that the CPU's flash attention accepts; the runtimes behind
ONNX have their own kernels, which padding would only slow down. On CUDA the default is `sdpa`:
PyTorch itself picks among the kernels that accept a value narrower than the query, and falls back
where a GPU or a type has none. That is the memory-efficient kernel on every supported GPU and in
every type, without the arithmetic that padding adds, and without recompiling for each size. No
candidate has been measured on a GPU yet; `tools/benchmark.py --attention` compares them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .blocked_attention import blocked_attention
from .execution import custom_operators_enabled, in_autocast_dtype, plain_operators_forced
from .fused_attention import (
    cudnn_attention,
    flash_attention,
    flex_attention,
    memory_efficient_attention,
    padded_sdpa_attention,
    sdpa_attention,
)

AttentionKernel = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], float], Tensor]

ATTENTION_KERNELS: dict[str, AttentionKernel] = {
    "blocked": blocked_attention,
    "sdpa": sdpa_attention,
    "padded_sdpa": padded_sdpa_attention,
    "memory_efficient": memory_efficient_attention,
    "flash": flash_attention,
    "cudnn": cudnn_attention,
    "flex": flex_attention,
}

_forced: str | None = None


def attention(
    query: Tensor, key: Tensor, value: Tensor, terms: Sequence[Tensor], scale: float
) -> Tensor:
    """Computes attention with the chosen kernel, under autocast in its type."""
    query, key, value, *terms = in_autocast_dtype(query, key, value, *terms)
    return ATTENTION_KERNELS[attention_kernel(query)](query, key, value, terms, scale)


def attention_kernel(query: Tensor) -> str:
    """Name of the kernel for a query."""
    if _forced is not None:
        return _forced
    if query.device.type != "cpu" or plain_operators_forced():
        return "sdpa"
    if custom_operators_enabled():
        return "blocked"
    return "sdpa" if torch.onnx.is_in_onnx_export() else "padded_sdpa"


@contextlib.contextmanager
def use_attention_kernel(name: str) -> Iterator[None]:
    """Makes all models use one kernel, for comparisons; it must run on their device.

    `blocked` runs on the CPU, `memory_efficient` and `cudnn` on CUDA, the others on both. `flex`
    has no backward pass on the CPU.

    Args:
        name: one of `ATTENTION_KERNELS`.

    Raises:
        ValueError: there is no kernel of this name.
    """
    global _forced
    if name not in ATTENTION_KERNELS:
        names = ", ".join(ATTENTION_KERNELS)
        raise ValueError(f"the attention kernel must be one of {names}, not {name!r}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before
