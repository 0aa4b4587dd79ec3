"""What operators of our own have to know about how PyTorch runs them."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_plain = False


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Casts to autocast's type where it is on: autocast knows PyTorch's own operators only."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def custom_operators_enabled() -> bool:
    """Whether the model runs in PyTorch; exporters know PyTorch's own operators only."""
    return not (_plain or torch.compiler.is_exporting() or torch.jit.is_tracing())


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Runs models on the CPU with PyTorch's own operators only, the way they take on a GPU."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before
