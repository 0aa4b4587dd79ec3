"""Instances that an exported detector finds in one image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.folders import new_file
from ..drawing import draw_instances
from ..errors import ImageError
from .masks import encode_mask


@dataclass(frozen=True, eq=False)
class RuntimePrediction:
    """Instances of one image, best first.

    Attributes:
        image: the image, (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels of the image.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, indexes into `class_names`.
        masks: (N, H, W) bool; None if the model has no masks.
        class_names: one for each class of the model.
        category_ids: of each class in the model's dataset, for COCO's results.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def draw(self) -> np.ndarray:
        """Boxes, masks, class names and scores on a copy of the image, (H, W, 3) uint8 RGB."""
        return draw_instances(
            self.image,
            self.boxes,
            self.masks,
            self.classes.tolist(),
            self.scores.tolist(),
            self.class_names,
        )

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """The instances in COCO's result format.

        Args:
            image_id: of the image in its dataset.

        Returns:
            One dict for each instance: `image_id`; `category_id`, of the dataset; `bbox`, x, y,
            width and height; `score`; and for a mask `segmentation`, run-length encoded.
        """
        results: list[dict[str, Any]] = []
        for index, (x0, y0, x1, y1) in enumerate(self.boxes.tolist()):
            result: dict[str, Any] = {
                "image_id": image_id,
                "category_id": self.category_ids[self.classes[index]],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(self.scores[index]),
            }
            if self.masks is not None:
                result["segmentation"] = encode_mask(self.masks[index])
            results.append(result)
        return results

    def save(self, path: str | Path, image_id: int = 0) -> None:
        """Writes a file of the kind that its extension names: an image, or COCO's results (.json).

        Args:
            path: the file, which is replaced if it exists; its folder is created.
            image_id: as for `to_coco`.

        Raises:
            ImageError: the extension is unknown, or the file cannot be written.
        """
        write_prediction(self, path, image_id)


def write_prediction(prediction: Any, path: str | Path, image_id: int) -> None:
    """Writes what has `draw` and `to_coco`, as `RuntimePrediction.save` does.

    Raises:
        ImageError: the extension is unknown, or the file cannot be written; an older one stays.
    """
    suffix = Path(path).suffix.lower()
    try:
        with new_file(path) as temporary:
            if suffix == ".json":
                temporary.write_text(json.dumps(prediction.to_coco(image_id)), encoding="utf-8")
            else:
                Image.fromarray(prediction.draw()).save(temporary, quality=95)
    except OSError as error:
        raise ImageError(f"cannot write '{path}' ({error.strerror or error})") from error
    except ValueError as error:
        raise ImageError(
            f"cannot write '{path}': unknown file extension '{suffix}'; use .jpg or .png for an "
            "image, or .json for COCO's results"
        ) from error
