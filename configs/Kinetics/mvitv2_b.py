"""MViTv2-B, 32 frames × 3, on Kinetics-400 from scratch, 200 epochs. Published: top-1 82.9."""

from .mvitv2_s import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(depths=[2, 3, 16, 3], frames=32, drop_path_rate=0.3)
dataloader.train.mapper.sampling.update(num_frames=32, step=3)
