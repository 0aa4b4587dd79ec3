"""MViTv2-L on ImageNet-1K from scratch, 300 epochs. Published: top-1 85.3."""

from .mvitv2_t import data, dataloader, lr_multiplier, model, optimizer, train

# The published weights widen in the MLP that ends a stage.
model.classifier.update(
    depths=[2, 6, 36, 4], embed_dim=144, num_heads=2, expand_attn=False, drop_path_rate=0.5
)
optimizer.weight_decay = 0.1
