"""MViTv2-H on ImageNet-1K from scratch, 300 epochs; no accuracy was published for this."""

from .mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(
    depths=[4, 8, 60, 8], embed_dim=192, num_heads=3, drop_path_rate=0.8, use_checkpoint=True
)
optimizer.weight_decay = 0.1
