"""COCO's box and mask AP, computed in C++ by faster-coco-eval."""

import itertools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import detectron2.evaluation
from detectron2.data import DatasetCatalog, MetadataCatalog
from faster_coco_eval import COCO, COCOeval_faster

from .task import METRICS, TaskEvaluation

logger = logging.getLogger(__name__)


class COCOEvaluator(detectron2.evaluation.COCOEvaluator):
    """Detectron2's COCO evaluator with a faster and more tolerant computation of AP.

    Collecting predictions, gathering them from all processes and naming the metrics is
    Detectron2's: the result is ``{"bbox": {"AP": …, "AP50": …, "AP-<class>": …}, "segm": {…}}`` in
    percent. The figures equal those of pycocotools, which takes several times as long and fails
    on annotations without ``info``, ``area`` or ``iscrowd``. Besides:

    * A model that finds nothing has AP 0 rather than NaN: the objects are there, it missed them.
    * A dataset without annotations gives NaN for every metric, and a warning.
    * Mask AP is left out on a dataset in which not every annotation has a mask.

    Args:
        dataset_name: a registered dataset. One that is not in COCO's format is converted, which
            needs an ``output_dir``.
        tasks: which of "bbox" and "segm" to evaluate; by default those that are predicted.
        distributed: gather the predictions of all processes; the others return {}.
        output_dir: folder for ``coco_instances_results.json`` and ``instances_predictions.pth``.
        max_dets_per_image: how many predictions per image and class count, best first.

    Attributes:
        task_evaluations: by task, what the last evaluation found class by class; empty before.
        predictions: of the last evaluation, in COCO's format; empty in all ranks but the first.

    Raises:
        ValueError: the dataset is not registered or a task is unknown.
    """

    _coco_api: COCO

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
    ) -> None:
        if dataset_name not in DatasetCatalog:
            known = ", ".join(sorted(DatasetCatalog))
            raise ValueError(f"dataset '{dataset_name}' is not registered; there are: {known}")
        unknown = set(tasks or ()) - {"bbox", "segm"}
        if unknown:
            raise ValueError(f"tasks contains {sorted(unknown)}; allowed are 'bbox' and 'segm'")
        # Loading is what generates missing files and tells the metadata how category ids map to
        # classes.
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("json_file") and not metadata.get("thing_dataset_id_to_contiguous_id"):
            DatasetCatalog.get(dataset_name)
        super().__init__(
            dataset_name,
            tasks,
            distributed,
            output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=False,
        )
        self._coco_api = COCO(_completed(self._coco_api.dataset))
        self._do_evaluation = len(self._coco_api.anns) > 0
        self.task_evaluations: dict[str, TaskEvaluation] = {}
        self.predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forgets all predictions, and what was found in them."""
        super().reset()
        self.task_evaluations = {}
        self.predictions = []

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        """Fills ``self._results`` from ``predictions``, one dict per image."""
        results = list(itertools.chain.from_iterable(image["instances"] for image in predictions))
        self._map_to_dataset_categories(results)
        self.predictions = results
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(results, file)
            logger.info("Saved the predictions to '%s'", path)

        tasks = self._tasks or self._tasks_to_evaluate(results)
        if not self._do_evaluation:
            logger.warning(
                "'%s' has no annotations: all metrics are NaN", self._metadata.get("json_file")
            )
            self._results.update({task: dict.fromkeys(METRICS, float("nan")) for task in tasks})
            names = [category["name"] for _, category in sorted(self._coco_api.cats.items())]
            self.task_evaluations = dict.fromkeys(tasks, TaskEvaluation.without_objects(names))
            return
        if not results:
            logger.warning("The model predicted nothing on all %d images", len(predictions))
        for task in tasks:
            if task == "segm" and not self._has_masks():
                logger.warning("The dataset has annotations without masks: mask AP is left out")
                continue
            evaluation = self._evaluate_task(task, results, img_ids)
            self._results[task] = self._derive_coco_results(
                evaluation, task, class_names=self._metadata.get("thing_classes")
            )
            self.task_evaluations[task] = TaskEvaluation.of(evaluation)

    def _evaluate_task(
        self, task: str, results: list[dict[str, Any]], img_ids: list[int] | None
    ) -> COCOeval_faster:
        """Runs COCO's evaluation of ``results`` for "bbox" or "segm"."""
        # COCO's rule for which predictions are small, medium or large takes the area of the box
        # if there is one. Masks shall be sorted by their own area.
        unused = "bbox" if task == "segm" else "segmentation"
        results = [{k: v for k, v in result.items() if k != unused} for result in results]
        evaluation = COCOeval_faster(
            self._coco_api, self._coco_api.loadRes(results), task, print_function=_discard
        )
        # COCO reports recall for several limits, of which only the last counts for AP.
        evaluation.params.maxDets = self._max_dets_per_image[-1:]
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.run()
        return evaluation

    def _map_to_dataset_categories(self, results: list[dict[str, Any]]) -> None:
        """Replaces the model's class indexes by the category ids of the dataset, in place."""
        to_index = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_index is None:
            return
        to_id = {index: category_id for category_id, index in to_index.items()}
        for result in results:
            if result["category_id"] not in to_id:
                raise ValueError(
                    f"the model predicted class {result['category_id']}, but dataset "
                    f"'{self._metadata.name}' has {len(to_id)} classes; set "
                    f"model.roi_heads.num_classes={len(to_id)}"
                )
            result["category_id"] = to_id[result["category_id"]]

    def _tasks_to_evaluate(self, results: list[dict[str, Any]]) -> list[str]:
        """What is predicted or, if nothing is, what is annotated."""
        has_masks = any("segmentation" in result for result in results)
        if not results:
            has_masks = self._has_masks()
        return ["bbox", "segm"] if has_masks else ["bbox"]

    def _has_masks(self) -> bool:
        return all(annotation.get("segmentation") for annotation in self._coco_api.anns.values())


def _discard(*_: object) -> None:
    """Takes the lines that COCO's code prints; Detectron2 logs the same figures as tables."""


def _completed(dataset: dict[str, Any]) -> dict[str, Any]:
    """A COCO dataset with what evaluation reads and annotations in the wild may lack.

    Annotations get new ids because 0 means "unmatched" to COCO's algorithm, and some files start
    there. A missing ``area`` is that of the box.
    """
    annotations = [
        {
            "iscrowd": 0,
            "area": annotation["bbox"][2] * annotation["bbox"][3],
            **annotation,
            "id": number,
        }
        for number, annotation in enumerate(dataset.get("annotations", []), start=1)
    ]
    return {**dataset, "annotations": annotations}
