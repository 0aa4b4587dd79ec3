"""MViTv2-S, 16 frames, on Something-Something v2 from Kinetics-400, 100 epochs. Published: 68.2."""

from detectron2.config import LazyCall as L
from torch.optim import SGD

from mvit_det.data.clip_sampling import SegmentSampling
from mvit_det.optimization import parameter_groups

from ..common.data.kinetics import data, dataloader
from ..common.models.video import model
from ..common.schedule import SSV2, imagenet_cosine, iterations
from ..common.train import train

model.num_classes = 174
model.classifier.drop_path_rate = 0.4

dataloader.train.dataset.names = "ssv2_train"
dataloader.test.dataset.names = "ssv2_val"
dataloader.train.total_batch_size = 512
# Many classes differ in left and right.
dataloader.train.mapper.update(
    sampling=L(SegmentSampling)(num_frames=16), flip=0.0, scale=None, repeats=1
)
dataloader.test.mapper.update(clips=1, crops=3)

train.max_iter = iterations(SSV2, epochs=100, batch_size=512)
train.best_metric = "classification/top1"
train.output_dir = "./output/ssv2"
train.init_checkpoint = "video_mvitv2_s_k400"
train.reset_head = True
optimizer = L(SGD)(
    params=L(parameter_groups)(base_lr="${..lr}", layer_decay=1.0, decay_positions=True),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)
lr_multiplier = imagenet_cosine(
    epochs=100, warmup_epochs=3, peak_lr=optimizer.lr, first_lr=1e-4, last_lr=1e-6
)
