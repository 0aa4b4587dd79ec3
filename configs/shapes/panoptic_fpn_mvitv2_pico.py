"""The quick start as Panoptic FPN: shapes are things, surfaces of backgrounds are stuff."""

from detectron2.config import LazyCall as L

from mvit_det.evaluation.panoptic import PanopticFPNEvaluator

from ..common.models.panoptic_fpn import panoptic
from .mask_rcnn_mvitv2_pico import data, dataloader, lr_multiplier, model, optimizer, train

panoptic(model, num_classes=5, conv_dims=32, smallest_stuff=64)

dataloader.train.dataset.names = "shapes_panoptic_train"
dataloader.test.dataset.names = "shapes_panoptic_val"
dataloader.evaluator = L(PanopticFPNEvaluator)(dataset_name="${..test.dataset.names}")

train.output_dir = "./output/shapes_panoptic"
