"""COCO 2017 with large-scale jittering: images of 1024 pixels, scaled by 0.1 to 2 and cropped."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco import data, dataloader

IMAGE_SIZE = 1024

dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(T.ResizeScale)(
        min_scale=0.1, max_scale=2.0, target_height=IMAGE_SIZE, target_width=IMAGE_SIZE
    ),
    L(T.FixedSizeCrop)(crop_size=[IMAGE_SIZE, IMAGE_SIZE]),
]
# Crops cut objects, so boxes are computed from the cropped masks.
dataloader.train.mapper.recompute_boxes = True
