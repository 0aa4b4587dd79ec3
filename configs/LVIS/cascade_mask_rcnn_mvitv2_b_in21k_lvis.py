"""Cascade Mask R-CNN with MViTv2-B on LVIS v1 at 1024 pixels, 100 epochs.

Published with ViTDet: box AP 46.3, mask AP 42.0.
"""

from ..COCO.cascade_mask_rcnn_mvitv2_b_in21k_1024 import data, model, optimizer, train
from ..common.data.lvis_lsj_1024 import dataloader
from ..common.models.federated import federated
from ..common.schedule import LVIS_EPOCH, iterations, multi_step

federated(model, dataset_name="${dataloader.train.dataset.names}", num_classes=1203)

train.max_iter = iterations(LVIS_EPOCH, epochs=100, batch_size=64)
lr_multiplier = multi_step(train.max_iter, decay_at=(8 / 9, 26 / 27))
optimizer.lr = 1e-4

# Grids are drawn from predictions in COCO's format.
train.visualized_images = 0
