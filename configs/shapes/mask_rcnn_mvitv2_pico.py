"""The quick start: a small Mask R-CNN that learns the generated `shapes` in minutes on a CPU."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from ..common.data.coco import data, dataloader
from ..common.models.mask_rcnn_mvitv2 import model
from ..common.optimizer import optimizer
from ..common.schedule import cosine, iterations
from ..common.train import train

IMAGE_SIZE = 128

model.backbone.out_channels = 64
model.backbone.bottom_up.update(
    depths=[1, 1, 1, 1],
    embed_dim=32,
    window_size=16,
    drop_path_rate=0.0,
    init_std=0.08,
    pretrain_img_size=IMAGE_SIZE,
    rel_pos_std=0.02,
)
model.proposal_generator.update(
    in_features=["p2", "p3", "p4", "p5"],
    batch_size_per_image=64,
    pre_nms_topk=[200, 100],
    post_nms_topk=[100, 100],
)
model.proposal_generator.anchor_generator.update(
    sizes=[[16], [32], [64], [96]], strides=[4, 8, 16, 32]
)
# Boxes are learnt within a few hundred steps, classes only later: more regions of objects and more
# weight halve the steps until the loss of classification starts to fall.
model.roi_heads.update(
    num_classes=5,
    batch_size_per_image=32,
    positive_fraction=0.5,
    box_in_features=["p2", "p3", "p4"],
)
model.roi_heads.box_predictor.loss_weight = {"loss_cls": 3.0}
model.roi_heads.box_pooler.scales = [1 / 4, 1 / 8, 1 / 16]
# One sample per cell of a region: enough for small regions, and the costliest step without a GPU.
model.roi_heads.box_pooler.sampling_ratio = 1
model.roi_heads.mask_pooler.sampling_ratio = 1
model.roi_heads.box_head.update(conv_dims=[64, 64], fc_dims=[128])
model.roi_heads.box_predictor.input_shape.channels = 128
model.roi_heads.mask_head.conv_dims = [64, 64]

dataloader.train.dataset.names = "shapes_train"
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(horizontal=True)]
dataloader.train.total_batch_size = 4
dataloader.train.num_workers = 0
dataloader.test.dataset.names = "shapes_val"
dataloader.test.mapper.augmentations = []
dataloader.test.num_workers = 0

# More steps beat larger batches.
train.max_iter = iterations(images=1000, epochs=6, batch_size=4)
train.max_grad_norm = 1.0
train.seed = 1
train.eval_period = 0
train.output_dir = "./output/shapes"
lr_multiplier = cosine(train.max_iter, warmup_iterations=50)
optimizer.update(lr=2e-3, betas=[0.9, 0.98], weight_decay=0.05)
