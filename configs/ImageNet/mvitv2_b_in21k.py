"""MViTv2-B pre-trained on ImageNet-21K (19,168 classes), 90 epochs."""

from ..common.schedule import IMAGENET_21K, imagenet_cosine, iterations
from .mvitv2_b import data, dataloader, model, optimizer, train

model.num_classes = 19168
model.classifier.class_token = True
dataloader.train.dataset.names = "imagenet21k_train"
dataloader.test.dataset.names = "imagenet21k_val"
dataloader.train.total_batch_size = 2048
train.max_iter = iterations(IMAGENET_21K, epochs=90, batch_size=2048)
optimizer.lr = 6.75e-5 * 2048 / 256
lr_multiplier = imagenet_cosine(epochs=90, warmup_epochs=5, peak_lr=optimizer.lr)
