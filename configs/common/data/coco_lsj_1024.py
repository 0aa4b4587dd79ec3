"""COCO 2017 with large-scale jittering, and evaluated at the size of training, 1024 pixels."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coco_lsj import IMAGE_SIZE, data, dataloader

# Images smaller than the crop stay so; the model pads them (`square_pad`).
dataloader.train.mapper.augmentations[-1].pad = False
dataloader.test.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=IMAGE_SIZE, max_size=IMAGE_SIZE)
]
