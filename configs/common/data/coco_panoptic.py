"""COCO 2017 for Panoptic FPN: instances, and semantic maps in which things are one class."""

from detectron2.config import LazyCall as L

from mvit_det.evaluation.panoptic import PanopticFPNEvaluator

from .coco import data, dataloader

dataloader.train.dataset.update(names="coco_2017_train_panoptic_separated", filter_empty=False)
dataloader.test.dataset.names = "coco_2017_val_panoptic_separated"
dataloader.evaluator = L(PanopticFPNEvaluator)(dataset_name="${..test.dataset.names}")
