"""MViTv2-B, 32 frames, on Something-Something v2 from Kinetics-400, 100 epochs. Published: 70.5."""

from .mvitv2_s import data, dataloader, lr_multiplier, model, optimizer, train

model.classifier.update(depths=[2, 3, 16, 3], frames=32)
dataloader.train.mapper.sampling.num_frames = 32
train.init_checkpoint = "video_mvitv2_b_k400"
