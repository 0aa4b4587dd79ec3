"""LVIS v1."""

from detectron2.config import LazyCall as L

from mvit_det.evaluation.lvis import LVISEvaluator

from .coco import data, dataloader

dataloader.train.dataset.names = "lvis_v1_train"
# Rare classes are seen more often, as in all published baselines.
dataloader.train.repeat_threshold = 0.001
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(LVISEvaluator)(
    dataset_name="${..test.dataset.names}", max_dets_per_image=300
)
