"""MViTv1-B, 16 frames × 4, on Kinetics-400 from scratch, 200 epochs. Published: top-1 78.4."""

from .mvitv2_s import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(
    expand_attn=False, full_query_pooling=False, residual_pooling=False, position="separate"
)
