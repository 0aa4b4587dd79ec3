"""The quick start in LVIS's format with the federated loss."""

from detectron2.config import LazyCall as L

from mvit_det.evaluation.lvis import LVISEvaluator

from ..common.models.federated import federated
from .mask_rcnn_mvitv2_pico import data, dataloader, lr_multiplier, model, optimizer, train

federated(
    model,
    dataset_name="${dataloader.train.dataset.names}",
    num_classes=5,
    sampled_classes=3,
)

dataloader.train.dataset.names = "shapes_lvis_train"
dataloader.test.dataset.names = "shapes_lvis_val"
dataloader.evaluator = L(LVISEvaluator)(dataset_name="${..test.dataset.names}")

train.visualized_images = 0
train.output_dir = "./output/shapes_lvis"
