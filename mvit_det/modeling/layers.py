"""Small parts of the backbone that hold parameters."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import blocked_mlp, custom_operators_enabled, in_autocast_dtype
from .padding import Sizes, fill_padding, pooled_sizes

# Makes a normalisation of the last axis from its width.
NormLayer = Callable[[int], nn.Module]


class PatchEmbed(nn.Module):
    """Turns an image into a grid of tokens: one convolution, overlapping where kernel > stride.

    Maps (N, in_chans, H, W) to (N, ceil(H / stride), ceil(W / stride), embed_dim) with the padding
    that MViTv2 uses, half the kernel.
    """

    def __init__(
        self, in_chans: int, embed_dim: int, kernel_size: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size, stride=stride, padding=padding)

    def forward(self, images: Tensor) -> Tensor:
        in_chans, kernel_size = self.proj.in_channels, self.proj.kernel_size[0]
        if images.ndim != 4 or images.shape[1] != in_chans:
            raise ValueError(
                f"images must have shape (N, {in_chans}, H, W), not {tuple(images.shape)}"
            )
        if min(images.shape[2:]) < kernel_size:
            raise ValueError(
                f"images must be at least {kernel_size} pixels high and wide, "
                f"not {images.shape[2]} by {images.shape[3]}"
            )
        return self.proj(images).permute(0, 2, 3, 1).contiguous()


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

    def forward(self, x: Tensor, sizes: Sizes | None = None) -> Tensor:
        """Maps (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), C).

        With sizes of the images in the batch, their padding never is the maximum.
        """
        if sizes is not None:
            x = fill_padding(x.clone(), sizes, torch.finfo(x.dtype).min)
        x = self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x if sizes is None else fill_padding(x, pooled_sizes(sizes, self.stride))
