"""MViTv2-L, 40 frames × 3 at 312 pixels, on Kinetics-400. Published: top-1 86.1.

It is fine-tuned for 75 epochs from ImageNet-21K weights, which are inflated when they are loaded.
"""

from ..common.schedule import KINETICS_400, imagenet_cosine, iterations
from .mvitv2_s import data, dataloader, model, optimizer, train

model.update(pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375])
model.classifier.update(
    depths=[2, 6, 36, 4], embed_dim=144, num_heads=2, frames=40, img_size=312, drop_path_rate=0.75
)
dataloader.train.mapper.update(image_size=312)
dataloader.train.mapper.sampling.update(num_frames=40, step=3)
dataloader.test.mapper.crops = 3
train.max_iter = iterations(KINETICS_400, epochs=75, batch_size=256)
train.init_checkpoint = "mvitv2_l_in21k"
optimizer.lr = 1.6e-4
lr_multiplier = imagenet_cosine(
    epochs=75, warmup_epochs=5, peak_lr=optimizer.lr, first_lr=1.6e-6, last_lr=1.6e-6
)
