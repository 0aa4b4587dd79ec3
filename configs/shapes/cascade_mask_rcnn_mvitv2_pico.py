"""The quick start with a cascade of three box heads, without norms: so small, they hurt."""

from ..common.models.cascade import cascade
from .mask_rcnn_mvitv2_pico import (
    data,
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)

cascade(model, conv_dims=[64, 64], fc_dims=[128], norm="")

train.output_dir = "./output/shapes_cascade"
