"""The backbone of the quick start as a classifier of generated shapes, in two minutes on a CPU."""

import mvit_det.data.shape_classes

from ..common.data.imagenet import data, dataloader
from ..common.models.classifier import model
from ..common.optimizer import optimizer
from ..common.schedule import imagenet_cosine, iterations
from ..common.train import train

IMAGE_SIZE = 64
# That of the detector, whose position tables then fit as they are.
PRETRAIN_SIZE = 128

model.update(num_classes=5, mixup=0.0, cutmix=0.0, random_erasing=0.0, label_smoothing=0.1)
model.classifier.update(
    depths=[1, 1, 1, 1],
    embed_dim=32,
    init_std=0.08,
    drop_path_rate=0.0,
    pretrain_img_size=PRETRAIN_SIZE,
)

dataloader.train.dataset.names = "shape_classes_train"
dataloader.train.mapper.update(image_size=IMAGE_SIZE, scale=[0.8, 1.0], augment=None)
dataloader.train.update(total_batch_size=32, num_workers=0)
dataloader.test.dataset.names = "shape_classes_val"
dataloader.test.mapper.crop_ratio = 1.0
dataloader.test.num_workers = 0

train.max_iter = iterations(images=4000, epochs=8, batch_size=32)
train.max_grad_norm = 1.0
train.seed = 1
train.eval_period = 0
train.best_metric = "classification/top1"
train.output_dir = "./output/classifier"
optimizer.update(lr=1e-3, betas=[0.9, 0.98], weight_decay=0.05)
lr_multiplier = imagenet_cosine(epochs=8, warmup_epochs=1, peak_lr=optimizer.lr)
