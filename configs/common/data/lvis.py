"""LVIS v1; `pip install lvis` for its evaluation."""

from detectron2.config import LazyCall as L

from mvit_det.evaluation_other import LVISEvaluator

from .coco import dataloader

dataloader.train.dataset.names = "lvis_v1_train"
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(LVISEvaluator)(
    dataset_name="${..test.dataset.names}", max_dets_per_image=300
)
