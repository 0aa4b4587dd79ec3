"""A small MViTv2 for ten motions of generated shapes; three and a half minutes on two CPU cores."""

import mvit_det.data.moving_shapes

from ..common.data.kinetics import data, dataloader
from ..common.models.video import model
from ..common.optimizer import optimizer
from ..common.schedule import imagenet_cosine, iterations
from ..common.train import train

# The clips have 48 pixels; fewer are enough, and much faster.
IMAGE_SIZE = 32
EPOCHS = 6

model.update(num_classes=10, mixup=0.0, cutmix=0.0, random_erasing=0.0, label_smoothing=0.0)
model.classifier.update(
    depths=[1, 1, 1, 1],
    embed_dim=32,
    init_std=0.08,
    frames=8,
    img_size=IMAGE_SIZE,
    drop_path_rate=0.0,
    dropout=0.0,
)

dataloader.train.dataset.names = "moving_shapes_train"
dataloader.train.mapper.sampling.update(num_frames=8, step=2)
# Flips and turns would change the classes.
dataloader.train.mapper.update(
    image_size=IMAGE_SIZE, scale=[0.8, 1.0], flip=0.0, augment=None, repeats=1
)
dataloader.train.update(total_batch_size=32, num_workers=1)
dataloader.test.dataset.names = "moving_shapes_val"
dataloader.test.mapper.update(clips=1, short_side=IMAGE_SIZE)
dataloader.test.update(batch_size=8, num_workers=0)

train.max_iter = iterations(images=6000, epochs=EPOCHS, batch_size=32)
train.max_grad_norm = 1.0
train.seed = 1
train.eval_period = 0
train.best_metric = "classification/top1"
train.output_dir = "./output/video"
optimizer.update(lr=1e-3, betas=[0.9, 0.98], weight_decay=0.05)
lr_multiplier = imagenet_cosine(epochs=EPOCHS, warmup_epochs=0.6, peak_lr=optimizer.lr)
