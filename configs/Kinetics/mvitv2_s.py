"""MViTv2-S, 16 frames × 4, on Kinetics-400 from scratch, 200 epochs. Published: top-1 81.0."""

from ..common.data.kinetics import data, dataloader
from ..common.models.video import model
from ..common.optimizer import optimizer
from ..common.schedule import KINETICS_400, imagenet_cosine, iterations
from ..common.train import train

train.max_iter = iterations(KINETICS_400, epochs=200, batch_size=256)
train.max_grad_norm = 1.0
train.best_metric = "classification/top1"
train.output_dir = "./output/kinetics"
optimizer.update(lr=1.6e-3, weight_decay=0.05)
optimizer.params.decay_positions = True
lr_multiplier = imagenet_cosine(
    epochs=200, warmup_epochs=30, peak_lr=1.6e-3, first_lr=1.6e-5, last_lr=1.6e-5
)
