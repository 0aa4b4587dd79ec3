"""What operators of our own have to know about how PyTorch runs them."""

import torch
from torch import Tensor


def in_autocast_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Casts to autocast's type where it is on: autocast knows PyTorch's own operators only."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(tensor.to(dtype) for tensor in tensors)


def own_operators_run() -> bool:
    """Whether the model runs in PyTorch; exporters know PyTorch's own operators only."""
    return not (torch.compiler.is_exporting() or torch.jit.is_tracing())
