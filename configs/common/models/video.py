"""MViTv2-S as a video classifier, with the mixing and smoothing of the recipe for Kinetics."""

from detectron2.config import LazyCall as L

from mvit_det.modeling import VideoMViT
from mvit_det.modeling.clip_classifier import ClipClassifier

model = L(ClipClassifier)(
    classifier=L(VideoMViT)(
        num_classes="${..num_classes}",
        depths=[1, 2, 11, 2],
        embed_dim=96,
        num_heads=1,
        frames=16,
        img_size=224,
        drop_path_rate=0.2,
        dropout=0.5,
        freeze_at=0,
    ),
    num_classes=400,
    # 0.45 and 0.225 in the range of pixels, 0 to 255.
    pixel_mean=[114.75, 114.75, 114.75],
    pixel_std=[57.375, 57.375, 57.375],
    mixup=0.8,
    cutmix=1.0,
    random_erasing=0.25,
    label_smoothing=0.1,
)
