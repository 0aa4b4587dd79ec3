"""Small parts of the backbone that hold parameters."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import blocked_mlp, custom_operators_enabled, in_autocast_dtype, linear
from .padding import Sizes, fill_padding, pooled_sizes

# Makes a normalisation of the last axis from its width.
NormLayer = Callable[[int], nn.Module]


class PatchEmbed(nn.Module):
    """Turns images or clips into a grid of tokens: one convolution, overlapping if kernel > stride.

    Maps (N, in_chans, H, W) to (N, ceil(H / stride), ceil(W / stride), embed_dim) with the padding
    that MViTv2 uses, half the kernel; and clips, whose sizes begin with the time, accordingly.
    """

    def __init__(
        self,
        in_chans: int,
        embed_dim: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
    ) -> None:
        super().__init__()
        conv: Any = nn.Conv2d if len(kernel_size) == 2 else nn.Conv3d
        self.proj = conv(in_chans, embed_dim, kernel_size, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        in_chans, kernel_size = self.proj.in_channels, self.proj.kernel_size
        kind, axes = ("images", "H, W") if len(kernel_size) == 2 else ("clips", "T, H, W")
        if x.ndim != len(kernel_size) + 2 or x.shape[1] != in_chans:
            shape = f"(N, {in_chans}, {axes})"
            raise ValueError(f"{kind} must have shape {shape}, not {tuple(x.shape)}")
        if min(x.shape[-2:]) < kernel_size[-1]:
            raise ValueError(
                f"{kind} must be at least {kernel_size[-1]} pixels high and wide, "
                f"not {x.shape[-2]} by {x.shape[-1]}"
            )
        return self.proj(x).movedim(1, -1).contiguous()


class Linear(nn.Linear):
    """PyTorch's `Linear` with the fastest kernel of the processor."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        return linear(x, self.weight, self.bias)


class Mlp(nn.Module):
    """Two linear layers with GELU between them, applied to each token: (…, dim) to (…, dim_out)."""

    def __init__(self, dim: int, hidden_dim: int, dim_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and custom_operators_enabled():
            layers = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
            return blocked_mlp(*in_autocast_dtype(x.flatten(0, -2), *layers)).unflatten(
                0, x.shape[:-1]
            )
        return self.fc2(F.gelu(self.fc1(x)))


class SkipPool(nn.Module):
    """Max-pooling of the skip path where a stage begins."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pool = nn.MaxPool2d(stride + 1, stride, padding=(stride + 1) // 2)

    def forward(
        self, x: Tensor, sizes: Sizes | None = None, grid: tuple[int, ...] | None = None
    ) -> Tensor:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), C).

        Args:
            x: tokens.
            sizes: of the images in the batch, whose padding then never is the maximum.
            grid: as in `MultiScaleAttention.forward`; the class token stays as it is.
        """
        if grid is not None:
            token, rest = x.split([1, x.shape[1] - 1], dim=1)
            pooled = self._pool(rest.unflatten(1, grid))
            return torch.cat([token, pooled.flatten(1, -2)], dim=1)
        if sizes is None:
            return self._pool(x)
        x = self._pool(fill_padding(x.clone(), sizes, torch.finfo(x.dtype).min))
        return fill_padding(x, pooled_sizes(sizes, self.stride))

    def _pool(self, x: Tensor) -> Tensor:
        """Pools height and width of (N, *grid, C); the frames of a clip each on its own."""
        images = x.flatten(0, -4).permute(0, 3, 1, 2)
        return self.pool(images).permute(0, 2, 3, 1).unflatten(0, x.shape[:-3])
