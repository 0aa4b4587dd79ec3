"""COCO 2017 for instance segmentation, with crops and resizing to many scales."""

from dataclasses import asdict

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from mvit_det.config.schema import Data
from mvit_det.data import DatasetMapper, load_records
from mvit_det.data.loading import EvaluationLoader, TrainingLoader
from mvit_det.evaluation import COCOEvaluator

# A custom dataset; `--train-json` and similar flags fill it in.
data = asdict(Data())

dataloader = dict(
    train=L(TrainingLoader)(
        dataset=L(load_records)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomApply)(
                    tfm_or_aug=L(T.AugmentationList)(
                        augs=[
                            L(T.ResizeShortestEdge)(
                                short_edge_length=[400, 500, 600], sample_style="choice"
                            ),
                            L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
                        ]
                    ),
                    prob=0.5,
                ),
                L(T.ResizeShortestEdge)(
                    short_edge_length=list(range(480, 801, 32)),
                    max_size=1333,
                    sample_style="choice",
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
            use_instance_mask=True,
        ),
        total_batch_size=64,
        num_workers=4,
        on_bad_image="${data.on_bad_image}",
    ),
    test=L(EvaluationLoader)(
        dataset=L(load_records)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
        on_bad_image="${data.on_bad_image}",
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)
