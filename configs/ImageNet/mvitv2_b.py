"""MViTv2-B on ImageNet-1K from scratch, 300 epochs. Published: top-1 84.4."""

from .mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(depths=[2, 3, 16, 3], drop_path_rate=0.3)
