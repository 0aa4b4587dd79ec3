"""The model itself: PyTorch and torchvision only, usable without Detectron2."""

from .classifier import MViTv2Classifier
from .mvit import MViTv2
from .sizes import (
    mvitv2_b,
    mvitv2_h,
    mvitv2_l,
    mvitv2_s,
    mvitv2_t,
    video_mvitv1_b,
    video_mvitv2_b,
    video_mvitv2_l,
    video_mvitv2_s,
)
from .transformer import MultiScaleTransformer
from .video import VideoMViT

__all__ = [
    "MultiScaleTransformer",
    "MViTv2",
    "MViTv2Classifier",
    "VideoMViT",
    "mvitv2_b",
    "mvitv2_h",
    "mvitv2_l",
    "mvitv2_s",
    "mvitv2_t",
    "video_mvitv1_b",
    "video_mvitv2_b",
    "video_mvitv2_l",
    "video_mvitv2_s",
]
