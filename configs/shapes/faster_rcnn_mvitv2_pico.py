"""The quick start without masks."""

from ..common.models.faster_rcnn import without_masks
from .mask_rcnn_mvitv2_pico import data, dataloader, lr_multiplier, model, optimizer, train

without_masks(model, dataloader)

train.output_dir = "./output/shapes_faster_rcnn"
