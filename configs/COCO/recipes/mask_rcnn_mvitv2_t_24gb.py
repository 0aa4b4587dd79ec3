"""The same on one GPU with 24 GB: micro-batches of 4 images."""

from .mask_rcnn_mvitv2_t_12gb import data, dataloader, lr_multiplier, model, optimizer, train

train.grad_accum_steps = 4
