"""How PyTorch runs the model at the moment: autocast, export, custom operators."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_plain = False


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Type that matrix products of a tensor are computed in: autocast's where it is on."""
    device = tensor.device.type
    # `meta` has no autocast.
    if device != "meta" and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return tensor.dtype


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Casts to autocast's type where it is on; autocast itself ignores custom operators."""
    return tuple(tensor.to(product_dtype(tensor)) for tensor in tensors)


def custom_operators_enabled() -> bool:
    """Whether the model runs in PyTorch; exporters know PyTorch's operators only."""
    # Before PyTorch 2.14, `is_exporting()` is true under torch.compile as well.
    is_exporting = torch.compiler._is_exporting_flag
    return not (_plain or is_exporting or torch.jit.is_tracing())


def plain_operators_forced() -> bool:
    """Whether `plain_operators` is in effect."""
    return _plain


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """Runs models on the CPU with PyTorch's operators only, as they run on a GPU."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before
