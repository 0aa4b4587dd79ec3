"""MViTv2-L fine-tuned on ImageNet-1K at 384 pixels, 30 epochs.

Published: top-1 86.0 with the centre crop, 86.3 with the full crop. Start from weights at 224
pixels with `train.init_checkpoint`.
"""

from ..common.schedule import IMAGENET_1K, imagenet_cosine, iterations
from .mvitv2_l import data, dataloader, model, optimizer, train

dataloader.train.mapper.image_size = 384
dataloader.train.total_batch_size = 512
train.max_iter = iterations(IMAGENET_1K, epochs=30, batch_size=512)
optimizer.lr = 4e-5 * 512 / 256
lr_multiplier = imagenet_cosine(epochs=30, warmup_epochs=5, peak_lr=optimizer.lr)
