"""MViTv2-T as an ImageNet classifier, with the mixing and smoothing of the paper's recipe."""

from detectron2.config import LazyCall as L

from mvit_det.modeling import MViTv2Classifier
from mvit_det.modeling.image_classifier import ImageClassifier

model = L(ImageClassifier)(
    classifier=L(MViTv2Classifier)(
        num_classes="${..num_classes}",
        depths=[1, 2, 5, 2],
        embed_dim=96,
        num_heads=1,
        class_token=False,
        pretrain_img_size=224,
        init_std=0.02,
        rel_pos_std=0.02,
        drop_path_rate=0.1,
        freeze_at=0,
        use_checkpoint=False,
    ),
    num_classes=1000,
    # ImageNet's mean and standard deviation in the range of pixels, 0 to 255.
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    mixup=0.8,
    cutmix=1.0,
    random_erasing=0.25,
    label_smoothing=0.1,
)
