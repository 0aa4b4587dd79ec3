"""The five sizes of MViTv2 (paper, table 1): backbones, or classifiers with `num_classes`.

Each function takes any argument of `MViTv2`, or with `num_classes` of `MViTv2Classifier`, by name.
Drop path rates are those of training for detection (MViTv2, appendix).
"""

from typing import Any

from .classifier import MViTv2Classifier
from .mvit import MViTv2


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


def _build(
    *, num_classes: int | None = None, class_token: bool = False, **arguments: Any
) -> MViTv2 | MViTv2Classifier:
    if num_classes is not None:
        return MViTv2Classifier(num_classes, class_token=class_token, **arguments)
    if class_token:
        raise ValueError("class_token is for classifiers: give num_classes as well")
    return MViTv2(**arguments)
