"""Kinetics-400, or any videos with a class each, for classification."""

from dataclasses import asdict

from detectron2.config import LazyCall as L

from mvit_det.config.schema import Data
from mvit_det.data.clip_datasets import load_clips
from mvit_det.data.clip_mapper import ClipMapper
from mvit_det.data.clip_sampling import DenseSampling
from mvit_det.data.loading import EvaluationLoader, TrainingLoader
from mvit_det.data.rand_augment import RandAugment
from mvit_det.evaluation.accuracy import AccuracyEvaluator

# A custom dataset; `--train-folder` and `--val-folder` fill it in.
data = asdict(Data())

dataloader = dict(
    train=L(TrainingLoader)(
        dataset=L(load_clips)(names="kinetics400_train"),
        mapper=L(ClipMapper)(
            is_train=True,
            sampling=L(DenseSampling)(num_frames=16, step=4),
            image_size=224,
            augment=L(RandAugment)(
                num_ops=4, magnitude=7.0, magnitude_std=0.5, fill=[128, 128, 128]
            ),
            repeats=2,
        ),
        # Videos; with two repeated augmentations 512 clips.
        total_batch_size=256,
        num_workers=8,
        on_bad_image="${data.on_bad_image}",
    ),
    test=L(EvaluationLoader)(
        dataset=L(load_clips)(names="kinetics400_val"),
        mapper=L(ClipMapper)(
            is_train=False,
            sampling="${...train.mapper.sampling}",
            image_size="${...train.mapper.image_size}",
            clips=5,
            crops=1,
            short_side=256,
        ),
        batch_size=1,
        num_workers=8,
        on_bad_image="${data.on_bad_image}",
    ),
    evaluator=L(AccuracyEvaluator)(dataset_name="${..test.dataset.names}"),
)
