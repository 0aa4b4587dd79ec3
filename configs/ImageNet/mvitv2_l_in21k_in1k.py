"""MViTv2-L pre-trained on ImageNet-21K, fine-tuned on ImageNet-1K, 30 epochs.

Published: top-1 87.5. Start from the ImageNet-21K weights with `train.init_checkpoint` and
`train.reset_head=True`.
"""

from ..common.schedule import IMAGENET_1K, imagenet_cosine, iterations
from .mvitv2_l_in21k import data, dataloader, model, optimizer, train

model.update(num_classes=1000, mixup=0.0, cutmix=0.0)
dataloader.train.dataset.names = "imagenet_train"
dataloader.test.dataset.names = "imagenet_val"
dataloader.train.total_batch_size = 512
train.max_iter = iterations(IMAGENET_1K, epochs=30, batch_size=512)
optimizer.update(lr=7e-5 * 512 / 64, weight_decay=0.05)
lr_multiplier = imagenet_cosine(epochs=30, warmup_epochs=5, peak_lr=optimizer.lr)
