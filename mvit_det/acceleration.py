"""Faster detectors on the CPU: what PyTorch and Detectron2 leave to one thread or to the system.

- torchvision's RoIAlign runs in one thread. Regions are independent of each other: here each thread
  pools its share of them, to the same numbers.
- Convolutions of the mask head are faster in the channels-last layout.
- On AMD's processors oneDNN's fp32 products are twice as fast as MKL's.
- glibc returns large blocks to the system and asks for them again, so that each forward pass of a
  backbone takes some 100,000 page faults. With higher thresholds it keeps them.
"""

import ctypes
import functools
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakSet

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import Tensor, nn

from .modeling.layers import Linear

_accelerated: WeakSet[nn.Module] = WeakSet()

# Fewer regions than this for each thread are not worth handing over.
LEAST_REGIONS = 8
# Parameters of glibc's mallopt, see malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def accelerate(model: nn.Module) -> None:
    """Makes a detector faster on the CPU, in place, and once only.

    Its parameters stay as they are, and so do its outputs, up to the rounding of the mask head's
    convolutions and of linear layers. On other devices nothing changes.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        return
    keep_memory()
    for module in list(model.modules()):
        if isinstance(module, ROIPooler):
            module.level_poolers = nn.ModuleList(map(_threaded, module.level_poolers))
        elif type(module) is nn.Linear:
            module.__class__ = Linear  # which has the same parameters
        elif isinstance(module, BaseMaskRCNNHead) and module not in _accelerated:
            module.register_forward_pre_hook(_to_channels_last)
            _accelerated.add(module)


@functools.cache
def keep_memory() -> bool:
    """Has glibc keep memory that is freed, for this process; returns whether it does.

    It does not where the C library is another one, or its thresholds are set by the environment.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt: Any = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


class ThreadedROIAlign(nn.Module):
    """Detectron2's `ROIAlign`, in as many threads as PyTorch has."""

    def __init__(self, layer: ROIAlign) -> None:
        super().__init__()
        self.output_size = layer.output_size
        self.spatial_scale = layer.spatial_scale
        self.sampling_ratio = layer.sampling_ratio
        self.aligned = layer.aligned

    def forward(self, features: Tensor, regions: Tensor) -> Tensor:
        """Pools regions.

        Args:
            features: (N, C, H, W).
            regions: (R, 5): index of the image, x0, y0, x1, y1.

        Returns:
            (R, C, *output_size).
        """
        # Autocast is off in other threads; torchvision pools in fp32 under it. Detectron2 rounds
        # regions to the type of the features before.
        regions = regions.to(features.dtype)
        autocast = torch.is_autocast_enabled("cpu")
        size = (
            (self.output_size, self.output_size)
            if isinstance(self.output_size, int)
            else self.output_size
        )
        pooled: Tensor = _RoIAlign.apply(
            features.float() if autocast else features,
            regions.float() if autocast else regions,
            (self.spatial_scale, *size, self.sampling_ratio, self.aligned),
        )
        return pooled.to(features.dtype)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, regions: Tensor, options: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(regions)
        ctx.options, ctx.shape = options, features.shape
        align = torch.ops.torchvision.roi_align

        def pool(share: Tensor) -> Tensor:
            pooled: Tensor = align(features, share, *options)
            return pooled

        return torch.cat(_in_threads(pool, _shares(regions)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (regions,) = ctx.saved_tensors
        scale, height, width, ratio, aligned = ctx.options
        shares = _shares(regions)
        of_shares = gradients[0].split([len(share) for share in shares])

        def unpool(share: tuple[Tensor, Tensor]) -> Tensor:
            gradient: Tensor = torch.ops.torchvision._roi_align_backward(
                share[0], share[1], scale, height, width, *ctx.shape, ratio, aligned
            )
            return gradient

        first, *others = _in_threads(unpool, list(zip(of_shares, shares)))
        for other in others:
            first += other
        return first, None, None


def _shares(regions: Tensor) -> list[Tensor]:
    """Cuts regions into one share for each thread."""
    threads = min(torch.get_num_threads(), len(regions) // LEAST_REGIONS)
    return list(regions.tensor_split(threads)) if threads > 1 else [regions]


def _in_threads(function: Callable[[Any], Tensor], inputs: list[Any]) -> list[Tensor]:
    if len(inputs) == 1:
        return [function(inputs[0])]

    def without_gradient(each: Any) -> Tensor:
        with torch.no_grad():  # the mode belongs to a thread
            return function(each)

    return list(_pool(len(inputs), os.getpid()).map(without_gradient, inputs))


@functools.cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of a parent process do not live on after a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="roi_align")


def _threaded(layer: nn.Module) -> nn.Module:
    return ThreadedROIAlign(layer) if isinstance(layer, ROIAlign) else layer


def _to_channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *others = inputs
    return x.contiguous(memory_format=torch.channels_last), *others
