"""The small ViT for comparisons, on its one map of features."""

from ..common.models.single_scale import single_scale
from .ablation_vit import data, dataloader, lr_multiplier, model, optimizer, train

single_scale(model, model.backbone.net, level=3)

train.output_dir = "./output/ablation_vit_single_scale"
