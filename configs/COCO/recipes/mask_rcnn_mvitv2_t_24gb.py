"""The same on one GPU with 24 GB: 4 images at once."""

from .mask_rcnn_mvitv2_t_12gb import data, dataloader, lr_multiplier, model, optimizer, train

train.grad_accum_steps = 4
