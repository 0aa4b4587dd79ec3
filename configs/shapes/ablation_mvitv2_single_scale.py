"""The small MViTv2 for comparisons, on one map of features."""

from ..common.models.single_scale import single_scale
from .ablation_mvitv2 import data, dataloader, lr_multiplier, model, optimizer, train

single_scale(model, model.backbone.bottom_up)

train.output_dir = "./output/ablation_mvitv2_single_scale"
