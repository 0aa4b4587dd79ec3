"""The published sizes of MViTv2 and MViT, for images (paper, table 1) and clips (appendix B).

Functions for images build backbones, or classifiers with `num_classes`. They take any argument of
`MViTv2`, or with `num_classes` of `MViTv2Classifier`, by name; drop path rates are those of
training for detection. Functions for clips take those of `VideoMViT`.
"""

from typing import Any

from .classifier import MViTv2Classifier
from .mvit import MViTv2
from .video import VideoMViT


def mvitv2_t(**arguments: Any) -> Any:
    """Builds MViTv2-T, with 24 M parameters as a classifier."""
    size = dict(embed_dim=96, num_heads=1, depths=(1, 2, 5, 2), drop_path_rate=0.2)
    return _build(**{**size, **arguments})


def mvitv2_s(**arguments: Any) -> Any:
    """Builds MViTv2-S, with 35 M parameters as a classifier."""
    size = dict(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2), drop_path_rate=0.2)
    return _build(**{**size, **arguments})


def mvitv2_b(**arguments: Any) -> Any:
    """Builds MViTv2-B, with 52 M parameters as a classifier."""
    size = dict(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3), drop_path_rate=0.4)
    return _build(**{**size, **arguments})


def mvitv2_l(**arguments: Any) -> Any:
    """Builds MViTv2-L, with 218 M parameters as a classifier."""
    size = dict(embed_dim=144, num_heads=2, depths=(2, 6, 36, 4), drop_path_rate=0.5)
    return _build(**{**size, **arguments})


def mvitv2_h(**arguments: Any) -> Any:
    """Builds MViTv2-H, with 667 M parameters as a classifier."""
    size = dict(embed_dim=192, num_heads=3, depths=(4, 8, 60, 8), drop_path_rate=0.6)
    return _build(**{**size, **arguments})


def video_mvitv2_s(num_classes: int = 400, **arguments: Any) -> VideoMViT:
    """Builds MViTv2-S for 16 frames at 224 × 224, with 34.5 M parameters."""
    size = dict(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2), drop_path_rate=0.2)
    return VideoMViT(num_classes, **{**size, **arguments})


def video_mvitv2_b(num_classes: int = 400, **arguments: Any) -> VideoMViT:
    """Builds MViTv2-B for 32 frames at 224 × 224, with 51.2 M parameters."""
    size = dict(embed_dim=96, num_heads=1, depths=(2, 3, 16, 3), drop_path_rate=0.3, frames=32)
    return VideoMViT(num_classes, **{**size, **arguments})


def video_mvitv2_l(num_classes: int = 400, **arguments: Any) -> VideoMViT:
    """Builds MViTv2-L for 40 frames at 312 × 312, with 213.4 M parameters."""
    size = dict(embed_dim=144, num_heads=2, depths=(2, 6, 36, 4), drop_path_rate=0.75)
    return VideoMViT(num_classes, **{**size, "frames": 40, "img_size": 312, **arguments})


def video_mvitv1_b(num_classes: int = 400, **arguments: Any) -> VideoMViT:
    """Builds MViT-B for 16 frames at 224 × 224, with 36.6 M parameters."""
    size = dict(embed_dim=96, num_heads=1, depths=(1, 2, 11, 2), drop_path_rate=0.2)
    variant = dict(
        expand_attn=False, full_query_pooling=False, residual_pooling=False, position="separate"
    )
    return VideoMViT(num_classes, **{**size, **variant, **arguments})


def _build(
    *, num_classes: int | None = None, class_token: bool = False, **arguments: Any
) -> MViTv2 | MViTv2Classifier:
    if num_classes is not None:
        return MViTv2Classifier(num_classes, class_token=class_token, **arguments)
    if class_token:
        raise ValueError("class_token is for classifiers: give num_classes as well")
    return MViTv2(**arguments)
