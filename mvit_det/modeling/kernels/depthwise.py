"""Depthwise convolution of clips whose backward pass is fast on the CPU.

PyTorch's backward pass of a depthwise `conv3d` on the CPU takes 1.6 to 10 times as long as those of
one `conv2d` for each frame of the kernel, on frames that are shifted in time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .execution import custom_operators_enabled, in_autocast_dtype


def depthwise_conv3d(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Convolves each channel of a clip with its own kernel, padded by half of its size.

    Args:
        x: (N, C, T, H, W), best with the channels last in memory.
        weight: (C, 1, frames, height, width), odd sizes.
        stride: in time, height and width; 1 in time.

    Returns:
        (N, C, T, H', W').
    """
    padding = tuple(side // 2 for side in weight.shape[2:])
    if x.device.type == "cpu" and custom_operators_enabled():
        return _DepthwiseConv3d.apply(*in_autocast_dtype(x, weight), stride, padding)
    return F.conv3d(x, weight, None, stride, padding, groups=len(weight))


class _DepthwiseConv3d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
    ) -> Tensor:
        """As `depthwise_conv3d`."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv3d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of clip and kernel."""
        x, weight = ctx.saved_tensors
        batch, channels, length = x.shape[:3]
        grad_x, grad_weight = torch.zeros_like(x), torch.empty_like(weight)
        for frame in range(weight.shape[2]):
            # Output t sees input t + shift through this frame of the kernel.
            shift = frame - ctx.padding[0]
            outputs = slice(max(-shift, 0), max(length - max(shift, 0), 0))
            inputs = slice(max(shift, 0), max(length - max(-shift, 0), 0))
            grads_of_frame = torch.ops.aten.convolution_backward(
                _frames(grad[:, :, outputs]),
                _frames(x[:, :, inputs]),
                weight[:, :, frame],
                None,
                ctx.stride[1:],
                ctx.padding[1:],
                [1, 1],
                False,
                [0, 0],
                channels,
                [True, True, False],
            )
            shifted = grads_of_frame[0].unflatten(0, (batch, -1)).transpose(1, 2)
            grad_x[:, :, inputs] += shifted
            grad_weight[:, :, frame] = grads_of_frame[1]
        return grad_x, grad_weight, None, None


def _frames(x: Tensor) -> Tensor:
    """(N, C, T, H, W) to (N · T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)
