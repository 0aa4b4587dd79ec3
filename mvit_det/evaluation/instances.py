"""Predicted instances of all ranks in COCO's result format, for COCO's and LVIS's metrics."""

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from ..data.folders import new_file
from .metrics import TASK_NAMES

logger = logging.getLogger(__name__)


class InstanceEvaluator(DatasetEvaluator):
    """Base of the evaluators: collects instances, gathers them in the main process, writes them.

    Args:
        tasks: any of "bbox" and "segm"; by default those that are predicted.
        distributed: gather the predictions of all ranks; the others return {}.
        output_dir: folder for the file of predictions; None writes no file.
        max_dets_per_image: see the subclasses.

    Raises:
        ValueError: a task is unknown.
    """

    def __init__(
        self,
        tasks: Sequence[str] | None,
        distributed: bool,
        output_dir: str | None,
        max_dets_per_image: int,
    ) -> None:
        unknown = set(tasks or ()) - set(TASK_NAMES)
        if unknown:
            raise ValueError(f"tasks contains {sorted(unknown)}; allowed are 'bbox' and 'segm'")
        self.tasks = tasks
        self.distributed = distributed
        self.output_dir = output_dir
        self.max_dets_per_image = max_dets_per_image
        self.reset()

    def reset(self) -> None:
        """Forgets all predictions."""
        self._processed: list[list[dict[str, Any]]] = []

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes the predictions of a batch: `image_id` of inputs, and `instances` of outputs."""
        for image, output in zip(inputs, outputs):
            instances = output["instances"].to("cpu")
            self._processed.append(instances_to_coco_json(instances, image["image_id"]))

    def gather(self) -> list[list[dict[str, Any]]]:
        """Returns the predictions of all ranks by image, with the model's classes.

        The list is empty in all ranks but the main one, and, with a warning, without images.
        """
        processed = self._processed
        if self.distributed:
            comm.synchronize()
            processed = list(itertools.chain.from_iterable(comm.gather(processed, dst=0)))
            if not comm.is_main_process():
                return []
        if not processed:
            logger.warning("No image was processed: there is nothing to evaluate")
        return processed

    def save(
        self, predictions: Sequence[Mapping[str, Any]], num_images: int, file_name: str
    ) -> None:
        """Writes the predictions on some images to a file in the output folder, if there is one."""
        if self.output_dir:
            path = Path(self.output_dir, file_name)
            with new_file(path) as temporary:
                temporary.write_text(json.dumps(predictions), encoding="utf-8")
            logger.info("Saved the predictions on %d images to '%s'", num_images, path)


def for_task(predictions: Sequence[Mapping[str, Any]], task: str) -> list[dict[str, Any]]:
    """Predictions with their boxes or their masks alone.

    COCO's algorithm tells small, medium and large predictions with a box apart by the area of the
    box. Masks are to be sorted by their own area.
    """
    unused = "bbox" if task == "segm" else "segmentation"
    return [{k: v for k, v in each.items() if k != unused} for each in predictions]
