"""The model itself: PyTorch and torchvision only, usable without Detectron2."""

from .classifier import MViTv2Classifier
from .mvit import MViTv2
from .sizes import mvitv2_b, mvitv2_h, mvitv2_l, mvitv2_s, mvitv2_t
from .transformer import MultiScaleTransformer

__all__ = [
    "MultiScaleTransformer",
    "MViTv2",
    "MViTv2Classifier",
    "mvitv2_b",
    "mvitv2_h",
    "mvitv2_l",
    "mvitv2_s",
    "mvitv2_t",
]
