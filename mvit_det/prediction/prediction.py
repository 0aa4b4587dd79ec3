"""What a detector finds in one image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from ..drawing import draw_instances
from ..errors import ImageError


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector finds in one image.

    Attributes:
        image: the image, (H, W, 3) uint8 RGB.
        instances: on the CPU, in pixels of the image, the highest scores first: `pred_boxes`
            (N, 4) x0, y0, x1, y1; `scores` (N,) in [0, 1]; `pred_classes` (N,) indexes into
            `class_names`; and of a model with masks `pred_masks` (N, H, W) bool.
        class_names: one for each class of the model.
        category_ids: of each class in the model's dataset, for COCO's results.
    """

    image: np.ndarray
    instances: Instances
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def draw(self) -> np.ndarray:
        """Boxes, masks, class names and scores on a copy of the image, (H, W, 3) uint8 RGB."""
        found = self.instances
        return draw_instances(
            self.image,
            found.pred_boxes.tensor.numpy(),
            found.pred_masks.numpy() if found.has("pred_masks") else None,
            found.pred_classes.tolist(),
            found.scores.tolist(),
            self.class_names,
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """The instances in COCO's result format, as an evaluation writes them.

        Args:
            image_id: of the image in its dataset.

        Returns:
            One dict for each instance: `image_id`; `category_id`, of the dataset; `bbox`, x, y,
            width and height; `score`; and for a mask `segmentation`, run-length encoded.
        """
        results: list[dict[str, Any]] = instances_to_coco_json(self.instances, image_id)
        for result in results:
            result["category_id"] = self.category_ids[result["category_id"]]
        return results

    def save(self, path: str | Path, image_id: int = 0) -> None:
        """Writes a file whose kind its ending tells: an image, or COCO's results for `.json`.

        Args:
            path: the file, which is replaced if it exists; its folder is made.
            image_id: as for `to_coco`.

        Raises:
            ImageError: the ending is unknown, or the file cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() == ".json":
                path.write_text(json.dumps(self.to_coco(image_id)), encoding="utf-8")
            else:
                Image.fromarray(self.draw()).save(path, quality=95)
        except OSError as error:
            raise ImageError(f"cannot write '{path}' ({error.strerror or error})") from error
        except ValueError as error:
            raise ImageError(
                f"cannot write '{path}', as its ending does not say what it shall be; use .jpg or "
                ".png for an image, or .json for COCO's results"
            ) from error
