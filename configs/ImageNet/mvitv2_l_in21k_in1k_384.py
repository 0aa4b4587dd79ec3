"""MViTv2-L pre-trained on ImageNet-21K, fine-tuned on ImageNet-1K at 384 pixels, 30 epochs.

Published: top-1 88.2 with the centre crop, 88.4 with the full crop.
"""

from .mvitv2_l_in21k_in1k import data, dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.image_size = 384
