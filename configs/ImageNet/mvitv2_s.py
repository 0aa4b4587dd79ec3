"""MViTv2-S on ImageNet-1K from scratch, 300 epochs. Published: top-1 83.6."""

from .mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.depths = [1, 2, 11, 2]
