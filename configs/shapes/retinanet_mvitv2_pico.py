"""The quick start with RetinaNet, on p3 to p5."""

from ..common.models.retinanet_mvitv2 import model
from .mask_rcnn_mvitv2_pico import data, dataloader, lr_multiplier, optimizer, train
from .mask_rcnn_mvitv2_pico import model as mask_rcnn

model.backbone.bottom_up = mask_rcnn.backbone.bottom_up
model.backbone.bottom_up.out_features = ["scale3", "scale4", "scale5"]
model.backbone.out_channels = 64
model.backbone.top_block = None
model.head.input_shape = model.head.input_shape[:3]
model.head.conv_dims = [64, 64]
model.anchor_generator.update(
    sizes=[[size * 2 ** (step / 3) for step in range(3)] for size in (16, 32, 64)],
    strides=[8, 16, 32],
)
model.head_in_features = ["p3", "p4", "p5"]
model.num_classes = 5

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ["bbox"]

train.output_dir = "./output/shapes_retinanet"
