"""Evaluation of what is not in COCO's format of instances alone: panoptic models, and LVIS."""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import detectron2.evaluation
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluators, SemSegEvaluator
from PIL import Image

from .errors import ConfigError
from .evaluation import COCOEvaluator

logger = logging.getLogger(__name__)


class PanopticFPNEvaluator(DatasetEvaluators):
    """Box and mask AP of things, mIoU of semantic maps and, where it can be had, panoptic quality.

    The first are `COCOEvaluator`'s and Detectron2's `SemSegEvaluator`'s. Panoptic quality is
    Detectron2's, for data sets whose metadata name a ``panoptic_json``; it needs the package
    ``panopticapi`` and is left out, with a warning, where that is not installed.

    Args:
        dataset_name: a registered data set of things and stuff ("separated" in Detectron2).
        output_dir: folder for the predictions.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        evaluators = [
            COCOEvaluator(dataset_name, output_dir=output_dir),
            SemSegEvaluator(dataset_name, output_dir=output_dir, sem_seg_loading_fn=_read_map),
        ]
        if MetadataCatalog.get(dataset_name).get("panoptic_json"):
            if importlib.util.find_spec("panopticapi"):
                evaluators.append(COCOPanopticEvaluator(dataset_name, output_dir))
            else:
                logger.warning("Panoptic quality is left out: it needs the package 'panopticapi'")
        super().__init__(evaluators)


def _read_map(path: str, dtype: type) -> np.ndarray:
    """A semantic map; Detectron2's own function does not work with NumPy 2."""
    with Image.open(path) as image:
        return np.asarray(image, dtype)


class LVISEvaluator(detectron2.evaluation.LVISEvaluator):
    """Detectron2's LVIS evaluator: AP over all categories, and over rare, common and frequent ones.

    Args:
        dataset_name: a registered data set in LVIS's format.
        arguments: any other of Detectron2's.

    Raises:
        ConfigError: the package ``lvis`` is not installed, or the data set is in another format.
    """

    def __init__(self, dataset_name: str, **arguments: Any) -> None:
        if importlib.util.find_spec("lvis") is None:
            raise ConfigError(
                f"evaluation on '{dataset_name}' needs the package 'lvis', which training does "
                "not: run 'pip install lvis', then evaluate with '--eval-only --resume'"
            )
        if MetadataCatalog.get(dataset_name).get("evaluator_type") != "lvis":
            raise ConfigError(
                f"data set '{dataset_name}' is not in LVIS's format; evaluate it with COCOEvaluator"
            )
        super().__init__(dataset_name, **arguments)

    def evaluate(self) -> dict[str, Any] | None:
        """As Detectron2's: metrics by task in percent; None in all processes but the main one."""
        with _former_numpy_name():
            return super().evaluate()


@contextlib.contextmanager
def _former_numpy_name() -> Iterator[None]:
    """Restores `np.float`, by which `lvis`, of 2020, still calls what NumPy calls `float`."""
    if hasattr(np, "float"):
        yield
        return
    setattr(np, "float", float)  # noqa: B010 (the name is not in NumPy's types)
    try:
        yield
    finally:
        delattr(np, "float")
