"""RetinaNet with MViTv2-T, 36 epochs ("3x"): Detectron2's heads on another backbone."""

from ..common.models.retinanet_mvitv2 import model
from .mask_rcnn_mvitv2_t import data, dataloader, lr_multiplier, optimizer, train

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ["bbox"]
