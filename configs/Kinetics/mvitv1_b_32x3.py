"""MViTv1-B, 32 frames × 3, on Kinetics-400 from scratch, 200 epochs. Published: top-1 80.4."""

from .mvitv1_b import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.frames = 32
dataloader.train.mapper.sampling.update(num_frames=32, step=3)
