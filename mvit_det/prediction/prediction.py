"""Detections in one image, to draw and to save."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..detection.masks import RLEMasks
from ..drawing import draw_instances, draw_stuff
from ..errors import ConfigError
from ..runtime.prediction import write_prediction
from .panoptic import PanopticSegmentation

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True, eq=False)
class Prediction:
    """The instances that a detector finds in one image.

    Attributes:
        image: the image, (H, W, 3) uint8 RGB.
        instances: on the CPU, in pixels of the image, highest scores first: `pred_boxes` (N, 4) x0,
            y0, x1, y1; `scores` (N,) in [0, 1]; `pred_classes` (N,) indexes into `class_names`; and
            `pred_masks` (N, H, W) bool if the model has a mask head; of slices they are `RLEMasks`,
            which decode one mask (H, W) at a time. Of a tracked video also `track_ids` (N,) int64,
            -1 for instances without a track.
        class_names: one for each class of the model.
        category_ids: id of each class in its dataset, for COCO's result format.
        panoptic: the segments of the image, of a panoptic model; else None.
    """

    image: np.ndarray
    instances: Instances
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    panoptic: PanopticSegmentation | None = None

    def select(
        self, score_threshold: float = 0.0, classes: Collection[int] | None = None
    ) -> "Prediction":
        """The instances with at least this score, of all classes or those with these indexes."""
        keep = self.instances.scores >= score_threshold
        if classes is not None:
            wanted = torch.tensor(sorted(classes), dtype=torch.int64)
            keep &= torch.isin(self.instances.pred_classes, wanted)
        return replace(self, instances=self.instances[keep])

    def draw(self, show_masks: bool = True) -> np.ndarray:
        """Draws boxes, masks, class names and scores on a copy, (H, W, 3) uint8 RGB.

        The instances of a tracked video have the colours of their ids. Of a panoptic model, stuff
        is drawn below the instances.

        Args:
            show_masks: draw masks and stuff, if the model has them.
        """
        found, image = self.instances, self.image
        if self.panoptic and show_masks:
            stuff = [segment for segment in self.panoptic.segments if not segment.is_thing]
            names = self.panoptic.semantic_classes
            image = draw_stuff(
                image,
                {each.name: self.panoptic.segments_map == each.number for each in stuff},
                [len(self.class_names) + names.index(each.name) for each in stuff],
            )
        return draw_instances(
            image,
            found.pred_boxes.tensor.numpy(),
            found.pred_masks if show_masks and found.has("pred_masks") else None,
            found.pred_classes.tolist(),
            found.scores.tolist(),
            self.class_names,
            found.track_ids.tolist() if found.has("track_ids") else None,
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """Converts the instances to COCO's result format, as an evaluation does.

        Args:
            image_id: id of the image in its dataset.

        Returns:
            One dict per instance: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`,
            and, if the model has a mask head, `segmentation` as run-length encoding. Of a tracked
            video also `track_id`, None for instances without a track.
        """
        found = self.instances
        encoded = found.get("pred_masks") if found.has("pred_masks") else None
        if isinstance(encoded, RLEMasks):
            found = Instances(found.image_size, **found.get_fields())
            found.remove("pred_masks")
        results: list[dict[str, Any]] = instances_to_coco_json(found, image_id)
        for index, result in enumerate(results):
            result["category_id"] = self.category_ids[result["category_id"]]
            if found.has("track_ids"):
                number = int(found.track_ids[index])
                result["track_id"] = number if number >= 0 else None
            if isinstance(encoded, RLEMasks):
                rle = encoded.encoded[index]
                result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
        return results

    def to_supervision(self) -> "supervision.Detections":
        """Converts the instances to `supervision.Detections`, for its annotators and zones.

        Returns:
            Boxes, masks if the model has a mask head, scores as `confidence`, indexes into
            `class_names` as `class_id`, the names as `data["class_name"]`, and of a tracked video
            the ids as `tracker_id`.

        Raises:
            ConfigError: supervision is not installed.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise ConfigError(
                "to_supervision() needs supervision; install it with "
                "'pip install \"mvit_det[supervision]\"'"
            ) from error
        found = self.instances
        masks = None
        if found.has("pred_masks"):
            masks = np.zeros((len(found), *self.image.shape[:2]), dtype=bool)
            for index, mask in enumerate(found.pred_masks):
                masks[index] = np.asarray(mask)
        classes = found.pred_classes.numpy().astype(int)
        return supervision.Detections(
            xyxy=found.pred_boxes.tensor.numpy().astype(np.float32),
            mask=masks,
            confidence=found.scores.numpy().astype(np.float32),
            class_id=classes,
            tracker_id=found.track_ids.numpy() if found.has("track_ids") else None,
            data={"class_name": np.array(self.class_names, dtype=object)[classes].astype(str)},
        )

    def save(self, path: str | Path, image_id: int = 0) -> None:
        """Saves the drawn image, or COCO's results if the file extension is `.json`.

        Args:
            path: an existing file is replaced; missing folders are created.
            image_id: as for `to_coco`.

        Raises:
            ImageError: the file extension is unknown, or the file cannot be written.
        """
        write_prediction(self, path, image_id)
