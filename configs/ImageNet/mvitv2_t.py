"""MViTv2-T on ImageNet-1K from scratch, 300 epochs. Published: top-1 82.3."""

from ..common.data.imagenet import data, dataloader
from ..common.models.classifier import model
from ..common.optimizer import optimizer
from ..common.schedule import IMAGENET_1K, imagenet_cosine, iterations
from ..common.train import train

train.max_iter = iterations(IMAGENET_1K, epochs=300, batch_size=2048)
train.max_grad_norm = 1.0
train.best_metric = "classification/top1"
train.output_dir = "./output/imagenet"
optimizer.update(lr=2e-3, weight_decay=0.05)
optimizer.params.decay_positions = True
lr_multiplier = imagenet_cosine(epochs=300, warmup_epochs=70, peak_lr=2e-3)
