"""Mask R-CNN with MViTv2-T on one GPU with 12 GB: micro-batches of 2 images, 12 epochs ("1x")."""

from ...common.schedule import COCO_EPOCH_3X, iterations, multi_step
from ..mask_rcnn_mvitv2_t import data, dataloader, model, optimizer, train

dataloader.train.total_batch_size = 16
train.grad_accum_steps = 8
train.max_iter = iterations(COCO_EPOCH_3X, epochs=12, batch_size=16)
# As published for batches of 64 images: the same fractions, as much warm-up, linear scaling.
lr_multiplier = multi_step(
    train.max_iter, decay_at=(7 / 9, 25 / 27), warmup_iterations=250 * 64 // 16
)
optimizer.lr = 1.6e-4 * 16 / 64

train.max_grad_norm = 1.0
train.ema.enabled = True
# Once and three times per epoch.
train.eval_period = iterations(COCO_EPOCH_3X, epochs=1, batch_size=16)
train.checkpointer.period = train.eval_period // 3
