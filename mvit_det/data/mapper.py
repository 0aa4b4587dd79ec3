"""The mapper: reads and augments an image and its annotations for a detector."""

import copy
from pathlib import Path
from typing import Any

import detectron2.data
import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.data import detection_utils

from ..errors import ImageError
from .images import read_image, read_labels
from .validation import MAX_OBJECTS, box_error, segmentation_error

# Images with a larger ratio of their sides can be too narrow to be resized.
_NARROW = 100


class DatasetMapper(detectron2.data.DatasetMapper):
    """Detectron2's mapper, with a clear error for each unusable image or annotation.

    Arguments and result are Detectron2's: for a record of a dataset, a dict with `image`,
    (3, H, W) uint8 in `image_format`, `height` and `width` before augmentation, in training
    `instances` with boxes, classes and masks, and `sem_seg`, (H, W) int64, where it is annotated.

    Augmentations draw from the global generators of NumPy, Python and PyTorch.

    Raises:
        ImageError: the image is missing or cannot be read, its size or that of its label map
            is not that of the annotations, an annotation is unusable, resizing leaves nothing of
            the image, or augmentation leaves more than `MAX_OBJECTS` objects.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Reads and augments a record, which is not changed."""
        record = copy.deepcopy(dataset_dict)
        path = record["file_name"]
        image = read_image(path, self.image_format)
        _check_size(record, image)
        labels = None
        if "sem_seg_file_name" in record:
            labels_path = record.pop("sem_seg_file_name")
            labels = read_labels(labels_path)
            if labels.shape != image.shape[:2]:
                raise ImageError(
                    f"the label map '{labels_path}' is {_size(labels)} but its image '{path}' is "
                    f"{_size(image)} (height × width); make a label map of the image's size"
                )
        if self.is_train:
            for annotation in record.get("annotations", ()):
                self._check_annotation(annotation, image, path)

        augmented = T.AugInput(image, sem_seg=labels)
        try:
            transforms = self.augmentations(augmented)
        except ValueError as error:
            # Pillow's, about a side of 0 pixels.
            if min(image.shape[:2]) * _NARROW > max(image.shape[:2]):
                raise
            raise ImageError(
                f"the image '{path}' is {_size(image)} (height × width), too narrow to be "
                "resized; crop or remove it"
            ) from error
        shape = augmented.image.shape[:2]
        # Always a copy: NumPy takes a flipped image of one column for contiguous.
        record["image"] = torch.from_numpy(augmented.image.transpose(2, 0, 1).copy())
        if labels is not None:
            record["sem_seg"] = torch.from_numpy(augmented.sem_seg.astype(np.int64, order="C"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, shape, transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, shape)
            if len(record["instances"]) > MAX_OBJECTS:
                raise ImageError(
                    f"the image '{path}' has {len(record['instances'])} objects, and training "
                    f"takes {MAX_OBJECTS} at most; cut it into smaller images"
                )
        return record

    def _check_annotation(
        self, annotation: dict[str, Any], image: np.ndarray, path: str | Path
    ) -> None:
        problem, remedy = box_error(annotation.get("bbox")), "correct or remove it"
        if self.use_instance_mask and not problem and not annotation.get("iscrowd", 0):
            segmentation = annotation.get("segmentation")
            problem = segmentation_error(segmentation, *image.shape[:2])
            if not problem and not segmentation:
                problem = "box but no mask"
                remedy = "add one, or set use_instance_mask=False for a model without a mask head"
            elif (
                not problem
                and isinstance(segmentation, dict)
                and self.instance_mask_format == "polygon"
            ):
                problem = "run-length encoded mask"
                remedy = "set dataloader.train.mapper.instance_mask_format=bitmask"
        if problem:
            which = f"annotation {annotation['id']}" if "id" in annotation else "an annotation"
            raise ImageError(f"{which} of the image '{path}' has a {problem}; {remedy}")

    def _transform_annotations(
        self, record: dict[str, Any], transforms: T.TransformList, shape: tuple[int, int]
    ) -> None:
        """Replaces `annotations` by `instances`, without crowds."""
        if all(annotation.get("iscrowd", 0) for annotation in record["annotations"]):
            # Without an object there are no masks to compute boxes from.
            del record["annotations"]
            record["instances"] = detection_utils.annotations_to_instances([], shape)
            return
        super()._transform_annotations(record, transforms, shape)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]} × {image.shape[1]}"


def _check_size(record: dict[str, Any], image: np.ndarray) -> None:
    """Checks `height` and `width` of a record, and sets them where they are missing."""
    height, width = image.shape[:2]
    annotated = record.setdefault("height", height), record.setdefault("width", width)
    if annotated == (height, width):
        return
    message = (
        f"the image '{record['file_name']}' is {_size(image)} but annotated as "
        f"{annotated[0]} × {annotated[1]} (height × width)"
    )
    if annotated == (width, height):
        raise ImageError(
            f"{message}: perhaps without its EXIF orientation, which is applied here; annotate it "
            "as it is shown, or remove the orientation from the file"
        )
    raise ImageError(
        f"{message}; annotate it in its own size, or restore the image that was annotated"
    )
