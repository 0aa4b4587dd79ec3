"""COCO's box and mask AP, computed in C++ by faster-coco-eval."""

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.utils.logger import create_small_table
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from ..data.catalog import check_datasets, use_own_readers
from ..data.coco import CocoDataset, read_coco
from ..data.urls import is_url
from ..data.validation import is_area
from ..errors import ConfigError, DatasetError
from ..plotting import shorten
from .instances import InstanceEvaluator, for_task
from .matching import Matches
from .metrics import METRICS, TASK_NAMES, TaskEvaluation

logger = logging.getLogger(__name__)


class COCOEvaluator(InstanceEvaluator):
    """Detectron2's COCO evaluator with a faster and more tolerant computation of AP.

    The result is named as Detectron2's: `{"bbox": {"AP": …, "AP50": …, "AP-<class>": …}, "segm":
    {…}}`, in percent. The numbers equal those of pycocotools, which takes several times as long
    and fails on annotations without `info`, `area` or `iscrowd`. The differences:

    * The annotations are those of `read_coco`, parsed once per run and normalised. A dataset that
      is not in COCO's format is converted in memory.
    * A model that finds nothing has AP 0 rather than NaN: the objects are there, it missed them.
    * A dataset without annotations gives NaN for every metric, and a warning.
    * Mask AP is skipped, with a warning, if an object has no mask. A crowd without one is its box.

    Args:
        dataset_name: a registered dataset.
        tasks: any of "bbox" and "segm"; by default those that are predicted.
        distributed: gather the predictions of all processes; the others return {}.
        output_dir: folder for `coco_instances_results.json`; None writes no file.
        max_dets_per_image: number of predictions per image and class that count, best first.

    Attributes:
        predictions: those of the last evaluation in COCO's result format, as in the file; empty
            before, and in all processes but the main one.
        task_evaluations: by task, the metrics of the last evaluation class by class; likewise.
        matches: by task, which predictions found an object; likewise.

    Raises:
        DatasetError: the dataset is not registered, or its annotations cannot be read.
        ValueError: a task is unknown.
    """

    # Each task also has an AP per class, "AP-<class>".
    metric_names = tuple(f"{task}/{metric}" for task in TASK_NAMES for metric in METRICS)

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
    ) -> None:
        super().__init__(tasks, distributed, output_dir, max_dets_per_image)
        self.dataset = _load(dataset_name)
        self.class_of_category = MetadataCatalog.get(dataset_name).get(
            "thing_dataset_id_to_contiguous_id"
        )
        self.dataset_name = dataset_name

    def reset(self) -> None:
        """Forgets all predictions and metrics."""
        super().reset()
        self.predictions: list[dict[str, Any]] = []
        self.task_evaluations: dict[str, TaskEvaluation] = {}
        self.matches: dict[str, Matches] = {}

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Computes the metrics.

        Args:
            img_ids: image ids to evaluate on; None stands for the whole dataset.

        Returns:
            Metrics by task; {} in all processes but the main one, or if no image was processed.
        """
        processed = self.gather()
        if not processed:
            return {}
        self.predictions = self._in_dataset_categories(processed)
        self.save(self.predictions, len(processed), "coco_instances_results.json")
        if not self.dataset.annotations:
            logger.warning("'%s' has no annotations: all metrics are NaN", self.dataset.path)
        elif not self.predictions:
            logger.warning("The model predicted nothing on all %d images", len(processed))

        results = {}
        for task in self.tasks or self._predicted_tasks():
            if task == "segm" and self.dataset.annotations and not self._has_all_masks:
                logger.warning("The dataset has objects without masks: mask AP is skipped")
                continue
            self.task_evaluations[task] = self._evaluate_task(task, img_ids)
            results[task] = _summarized(task, self.task_evaluations[task])
        return results

    def _in_dataset_categories(
        self, processed: Iterable[list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """All predictions, with the category ids of the dataset instead of the model's classes."""
        predictions = list(itertools.chain.from_iterable(processed))
        if self.class_of_category is None:
            return predictions
        category = {index: number for number, index in self.class_of_category.items()}
        for prediction in predictions:
            index = prediction["category_id"]
            if index not in category:
                raise ConfigError(
                    f"the model predicted class {index}, but dataset '{self.dataset_name}' has "
                    f"{len(category)} classes; set model.roi_heads.num_classes={len(category)}"
                )
            prediction["category_id"] = category[index]
        return predictions

    def _predicted_tasks(self) -> list[str]:
        """The tasks that are predicted or, if nothing is, those that are annotated."""
        has_masks = any("segmentation" in prediction for prediction in self.predictions)
        if not self.predictions:
            has_masks = self._has_all_masks
        return ["bbox", "segm"] if has_masks else ["bbox"]

    @cached_property
    def _has_all_masks(self) -> bool:
        return all(each["iscrowd"] or "segmentation" in each for each in self.dataset.annotations)

    @cached_property
    def _truth(self) -> COCO:
        """The dataset as faster-coco-eval takes it."""
        return COCO(
            {
                "images": self.dataset.images,
                "annotations": [
                    _completed(annotation, number)
                    for number, annotation in enumerate(self.dataset.annotations, start=1)
                ],
                "categories": self.dataset.categories,
            }
        )

    def _evaluate_task(self, task: str, image_ids: Sequence[int] | None) -> TaskEvaluation:
        """Runs COCO's evaluation for "bbox" or "segm"."""
        if not self.dataset.annotations:
            return TaskEvaluation.without_objects(self.dataset.class_names)
        found = self._truth.loadRes(for_task(self.predictions, task))
        evaluation = COCOeval_faster(self._truth, found, task, print_function=logger.debug)
        evaluation.params.maxDets = [self.max_dets_per_image]
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.run()
        images = set(evaluation.params.imgIds)
        annotations = [each for each in self.dataset.annotations if each["image_id"] in images]
        self.matches[task] = Matches.of(evaluation, annotations, self.predictions)
        return TaskEvaluation.of(evaluation)


def _load(dataset_name: str) -> CocoDataset:
    """The annotations of a registered dataset, which are generated or converted if need be."""
    check_datasets(dataset_name)
    use_own_readers([dataset_name])
    metadata = MetadataCatalog.get(dataset_name)
    json_file = metadata.get("json_file")
    if json_file and not (
        (is_url(json_file) or Path(json_file).exists())
        and metadata.get("thing_dataset_id_to_contiguous_id")
    ):
        # Loading generates missing files, and tells the metadata how ids map to classes.
        DatasetCatalog.get(dataset_name)
    if json_file:
        return read_coco(json_file)
    try:
        return CocoDataset.from_dict(convert_to_coco_dict(dataset_name), dataset_name)
    except KeyError as error:
        raise DatasetError(
            f"a record of dataset '{dataset_name}' has no {error}, which evaluation needs; add it "
            "in the function that is registered for the dataset"
        ) from error


def _completed(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """An annotation with all that the evaluation reads.

    It gets another id, because 0 means "unmatched" to COCO's algorithm and some files start there.
    An `area` that is missing or not positive is that of the box, as is the missing mask of a crowd.
    """
    x, y, width, height = annotation["bbox"]
    area = annotation.get("area")
    completed = {**annotation, "id": number, "area": area if is_area(area) else width * height}
    if "segmentation" not in annotation and annotation["iscrowd"]:
        right, bottom = x + width, y + height
        completed["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
    return completed


def _summarized(task: str, evaluation: TaskEvaluation) -> dict[str, float]:
    """The metrics as Detectron2 names them, and logs them."""
    metrics = evaluation.metrics()
    results = {name: metrics[name] for name in METRICS}
    if not len(evaluation.objects[evaluation.objects > 0]):
        return results
    logger.info("Evaluation results for %s:\n%s", task, create_small_table(results))
    if any(map(math.isnan, results.values())):
        logger.info("Metrics of sizes that no object has are shown as NaN")
    if len(evaluation.class_names) > 1:
        by_class = [
            (name, evaluation.metrics(index)["AP"])
            for index, name in enumerate(evaluation.class_names)
        ]
        cells = [each for name, ap in by_class for each in (_cell(name), f"{ap:.3f}")]
        columns = min(6, len(cells))
        rows = itertools.zip_longest(*(cells[start::columns] for start in range(columns)))
        headers = ["category", "AP"] * (columns // 2)
        table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
        logger.info("AP by category for %s:\n%s", task, table)
        results.update({f"AP-{name}": ap for name, ap in by_class})
    return results


def _cell(name: str) -> str:
    """A class name for a Markdown table."""
    return shorten(name).replace("|", "\\|")
