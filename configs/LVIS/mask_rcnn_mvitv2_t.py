"""Mask R-CNN with MViTv2-T on LVIS v1, whose 1203 classes are learned with the federated loss."""

from ..COCO.mask_rcnn_mvitv2_t import lr_multiplier, model, optimizer, train
from ..common.data.lvis import data, dataloader
from ..common.models.federated import federated

federated(model, dataset_name="${dataloader.train.dataset.names}", num_classes=1203)

# Sheets are drawn from predictions in COCO's format.
train.visualized_images = 0
