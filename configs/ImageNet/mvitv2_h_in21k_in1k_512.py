"""MViTv2-H pre-trained on ImageNet-21K, fine-tuned on ImageNet-1K at 512 pixels, 30 epochs.

Published: top-1 88.3 with the centre crop, 88.8 with the full crop.
"""

from .mvitv2_h_in21k_in1k import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.image_size = 512
