"""A small MViTv2 for comparisons: windows and global blocks at every stage, all choices named.

Without masks, which the paper's comparisons do not look at, and so in two thirds of the time.
"""

from .faster_rcnn_mvitv2_pico import data, dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(
    depths=[1, 2, 2, 2],
    attention="hwin",
    key_stride=4,
    position="decomposed",
    residual_pooling=True,
    full_query_pooling=True,
)

train.output_dir = "./output/ablation_mvitv2"
