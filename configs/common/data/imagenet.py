"""ImageNet, or any folder with a folder of images per class, for classification."""

from dataclasses import asdict

from detectron2.config import LazyCall as L

from mvit_det.config.schema import Data
from mvit_det.data.classification_mapper import ClassificationMapper
from mvit_det.data.image_folder import load_image_folder
from mvit_det.data.loading import EvaluationLoader, TrainingLoader
from mvit_det.data.rand_augment import RandAugment
from mvit_det.evaluation.accuracy import AccuracyEvaluator

# A custom dataset; `--train-folder` and `--val-folder` fill it in.
data = asdict(Data())

dataloader = dict(
    train=L(TrainingLoader)(
        dataset=L(load_image_folder)(names="imagenet_train"),
        mapper=L(ClassificationMapper)(
            is_train=True,
            image_size=224,
            augment=L(RandAugment)(num_ops=6, magnitude=9.0, magnitude_std=0.5),
        ),
        total_batch_size=2048,
        num_workers=8,
        on_bad_image="${data.on_bad_image}",
    ),
    test=L(EvaluationLoader)(
        dataset=L(load_image_folder)(names="imagenet_val"),
        mapper=L(ClassificationMapper)(
            is_train=False,
            image_size="${...train.mapper.image_size}",
            crop="center",
            crop_ratio=0.875,
        ),
        batch_size=32,
        num_workers=8,
        on_bad_image="${data.on_bad_image}",
    ),
    evaluator=L(AccuracyEvaluator)(dataset_name="${..test.dataset.names}"),
)
