"""The model itself: PyTorch and torchvision only, usable without Detectron2."""

from .mvit import MViTv2, mvitv2_b, mvitv2_h, mvitv2_l, mvitv2_s, mvitv2_t

__all__ = ["MViTv2", "mvitv2_b", "mvitv2_h", "mvitv2_l", "mvitv2_s", "mvitv2_t"]
