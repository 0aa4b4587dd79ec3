"""MViTv2-L pre-trained on ImageNet-21K (19,168 classes), 90 epochs."""

from ..common.schedule import imagenet_cosine
from .mvitv2_b_in21k import data, dataloader, model, optimizer, train

model.classifier.update(depths=[2, 6, 36, 4], embed_dim=144, num_heads=2, drop_path_rate=0.5)
optimizer.update(lr=1e-4 * 2048 / 256, weight_decay=0.1)
lr_multiplier = imagenet_cosine(epochs=90, warmup_epochs=5, peak_lr=optimizer.lr)
