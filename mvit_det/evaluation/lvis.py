"""LVIS's box and mask AP, computed in C++ by faster-coco-eval."""

import heapq
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import create_small_table
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as mask_util

from ..data.coco import read_coco
from ..data.urls import is_url
from ..errors import ConfigError
from .instances import InstanceEvaluator, for_task
from .metrics import METRICS, TASK_NAMES

logger = logging.getLogger(__name__)

RESULTS_FILE = "lvis_instances_results.json"
# Of the categories, by the number of training images that show them: up to 10, up to 100, more.
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


class LVISEvaluator(InstanceEvaluator):
    """AP over all categories of LVIS, and over its rare, common and frequent ones.

    Names and numbers are those of Detectron2's evaluator, which needs the package `lvis`: a
    prediction counts only if its category is annotated in the image, be it as absent, and one that
    misses is not counted where the category is not annotated exhaustively; neither is one without
    area. Metrics without an object are NaN.

    Args:
        dataset_name: a registered dataset in LVIS's format.
        tasks: any of "bbox" and "segm"; by default those that are predicted.
        distributed: gather the predictions of all ranks; the others return {}.
        output_dir: folder for `lvis_instances_results.json`; None writes no file.
        max_dets_per_image: number of predictions per image that count, best first.

    Raises:
        ConfigError: the dataset is in another format.
    """

    metric_names = tuple(
        f"{task}/{metric}"
        for task in TASK_NAMES
        for metric in (*METRICS, *(f"AP{letter}" for letter in FREQUENCIES))
    )

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 300,
    ) -> None:
        super().__init__(tasks, distributed, output_dir, max_dets_per_image)
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("evaluator_type") != "lvis":
            raise ConfigError(
                f"dataset '{dataset_name}' is not in LVIS's format; evaluate it with COCOEvaluator"
            )
        if not is_url(metadata.json_file) and not Path(metadata.json_file).exists():
            DatasetCatalog.get(dataset_name)  # generates it, or says what is missing
        dataset = read_coco(metadata.json_file)
        # Copies, as the evaluation adds to the annotations.
        annotations = [dict(annotation) for annotation in dataset.annotations]
        self._truth = COCO(
            {
                "images": dataset.images,
                "annotations": annotations,
                "categories": dataset.categories,
            }
        )
        self._categories = sorted(dataset.categories, key=lambda category: category["id"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Computes the metrics, in percent.

        Returns:
            Metrics by task; {} in all ranks but the main one, or if no image was processed.
        """
        processed = self.gather()
        if not processed:
            return {}
        ids = [category["id"] for category in self._categories]
        predictions = [
            {**prediction, "category_id": ids[prediction["category_id"]]}
            for found in processed
            for prediction in heapq.nlargest(self.max_dets_per_image, found, itemgetter("score"))
        ]
        self.save(predictions, len(processed), RESULTS_FILE)
        has_masks = any("segmentation" in prediction for prediction in predictions)
        tasks = self.tasks or (["bbox", "segm"] if has_masks or not predictions else ["bbox"])
        results = {}
        for task in tasks:
            results[task] = self._metrics(self._precision(task, predictions))
            logger.info("LVIS results for %s:\n%s", task, create_small_table(results[task]))
        return results

    def _precision(self, task: str, predictions: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(IoUs, recalls, categories, areas) in [0, 1]; -1 where there is no object."""
        found = self._truth.loadRes(
            for_task([each for each in predictions if _area(each, task) > 0], task)
        )
        evaluation = COCOeval_faster(
            self._truth, found, task, lvis_style=True, print_function=logger.debug
        )
        evaluation.params.maxDets = [self.max_dets_per_image]
        evaluation.run()
        return np.array(evaluation.eval["precision"])[..., -1]

    def _metrics(self, precision: np.ndarray) -> dict[str, float]:
        of_frequency = defaultdict(list)
        for index, category in enumerate(self._categories):
            of_frequency[category["frequency"]].append(index)
        parts = {
            "AP": precision[..., 0],
            "AP50": precision[0, ..., 0],
            "AP75": precision[5, ..., 0],
            "APs": precision[..., 1],
            "APm": precision[..., 2],
            "APl": precision[..., 3],
        }
        parts |= {f"AP{letter}": precision[:, :, of_frequency[letter], 0] for letter in FREQUENCIES}
        return {name: _mean(values) for name, values in parts.items()}


def _area(prediction: Mapping[str, Any], task: str) -> float:
    if task == "segm":
        return float(mask_util.area(prediction["segmentation"]))
    return float(prediction["bbox"][2] * prediction["bbox"][3])


def _mean(values: np.ndarray) -> float:
    """In percent, without entries of -1."""
    values = values[values >= 0]
    return 100 * float(values.mean()) if values.size else float("nan")
