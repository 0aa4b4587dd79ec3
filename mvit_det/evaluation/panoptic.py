"""Evaluation of panoptic models."""

import importlib.util
import logging

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluators, SemSegEvaluator
from PIL import Image

from .coco import COCOEvaluator

logger = logging.getLogger(__name__)


class PanopticFPNEvaluator(DatasetEvaluators):
    """Box and mask AP of things, mIoU of semantic maps and, where possible, panoptic quality.

    The first are `COCOEvaluator`'s and Detectron2's `SemSegEvaluator`'s. Panoptic quality is
    Detectron2's, for datasets whose metadata name a ``panoptic_json``; it needs the package
    ``panopticapi`` and is skipped, with a warning, where that is not installed.

    Args:
        dataset_name: a registered dataset of things and stuff ("separated" in Detectron2).
        output_dir: folder for the predictions.

    Attributes:
        instances: the evaluator of boxes and masks.
    """

    metric_names = (
        *COCOEvaluator.metric_names,
        *(f"sem_seg/{name}" for name in ("mIoU", "fwIoU", "mACC", "pACC")),
        *(
            f"panoptic_seg/{name}{part}"
            for part in ("", "_th", "_st")
            for name in ("PQ", "SQ", "RQ")
        ),
    )

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        self.instances = COCOEvaluator(dataset_name, output_dir=output_dir)
        evaluators = [
            self.instances,
            SemSegEvaluator(dataset_name, output_dir=output_dir, sem_seg_loading_fn=_read_map),
        ]
        if MetadataCatalog.get(dataset_name).get("panoptic_json"):
            if importlib.util.find_spec("panopticapi"):
                evaluators.append(COCOPanopticEvaluator(dataset_name, output_dir))
            else:
                logger.warning("Panoptic quality is skipped: it needs the package 'panopticapi'")
        super().__init__(evaluators)


def _read_map(path: str, dtype: type) -> np.ndarray:
    """A semantic map; Detectron2's own function does not work with NumPy 2."""
    with Image.open(path) as image:
        return np.asarray(image, dtype)
