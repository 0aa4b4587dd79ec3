"""The same on one GPU with 48 GB: micro-batches of 8 images."""

from .mask_rcnn_mvitv2_t_12gb import data, dataloader, lr_multiplier, model, optimizer, train

train.grad_accum_steps = 2
