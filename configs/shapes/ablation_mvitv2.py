"""A small MViTv2 for comparisons: windows and global blocks at every stage, all choices named.

Without masks, which the paper's comparisons do not look at, and so in two thirds of the time.
"""

from ..common.schedule import cosine, iterations
from .faster_rcnn_mvitv2_pico import data, dataloader, model, optimizer, train

model.backbone.bottom_up.update(
    depths=[1, 2, 2, 2],
    init_std=0.02,
    attention="hwin",
    key_stride=4,
    position="decomposed",
    residual_pooling=True,
    full_query_pooling=True,
)
# The comparisons keep the paper's initialisation and Detectron2's sampling of regions.
model.roi_heads.positive_fraction = 0.25
model.roi_heads.box_predictor.loss_weight = 1.0

train.max_iter = iterations(images=1000, epochs=7, batch_size=4)
lr_multiplier = cosine(train.max_iter, warmup_iterations=50)
optimizer.lr = 1e-3
train.output_dir = "./output/ablation_mvitv2"
