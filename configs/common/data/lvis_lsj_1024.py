"""LVIS v1 with large-scale jittering, and evaluated at the size of training, 1024 pixels."""

from .coco_lsj_1024 import dataloader as coco
from .lvis import data, dataloader

dataloader.train.total_batch_size = 64
dataloader.train.mapper = coco.train.mapper
dataloader.test.mapper = coco.test.mapper
