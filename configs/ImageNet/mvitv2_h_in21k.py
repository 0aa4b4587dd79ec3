"""MViTv2-H pre-trained on ImageNet-21K (19,168 classes), 90 epochs."""

from ..common.schedule import imagenet_cosine
from .mvitv2_b_in21k import data, dataloader, model, optimizer, train

model.classifier.update(depths=[4, 8, 60, 8], embed_dim=192, num_heads=3, drop_path_rate=0.8)
model.classifier.use_checkpoint = True
optimizer.update(lr=1e-4 * 2048 / 256, weight_decay=0.1)
lr_multiplier = imagenet_cosine(epochs=90, warmup_epochs=5, peak_lr=optimizer.lr)
