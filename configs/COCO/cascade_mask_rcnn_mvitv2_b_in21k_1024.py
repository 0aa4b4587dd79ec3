"""Cascade Mask R-CNN with MViTv2-B at 1024 pixels, large-scale jittering, 100 epochs.

Published with ViTDet: box AP 55.6, mask AP 48.1.
"""

from ..common.data.coco_lsj_1024 import IMAGE_SIZE, data, dataloader
from ..common.models.mask_rcnn_mvitv2 import model
from ..common.models.vitdet import vitdet
from ..common.optimizer import optimizer
from ..common.schedule import COCO_EPOCH_LSJ, iterations, multi_step
from ..common.train import train

vitdet(model, square_pad=IMAGE_SIZE)
model.backbone.bottom_up.update(depths=[2, 3, 16, 3], drop_path_rate=0.4)

dataloader.train.total_batch_size = 64
train.max_iter = iterations(COCO_EPOCH_LSJ, epochs=100, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(8 / 9, 26 / 27))
optimizer.lr = 8e-5

train.init_checkpoint = "detectron2://ImageNetPretrained/mvitv2/MViTv2_B_in21k.pyth"
