"""Image grids: predictions beside ground truth, and the annotations of a dataset.

Home-made because torchvision.utils has neither anti-aliased outlines nor captions on a background,
and pads images to one size instead of scaling them.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw
from pycocotools import mask as mask_util

from .data.folders import new_file
from .data.images import read_image
from .drawing import INK, PAPER, draw_captioned, font_for

PANEL_SIDES = (320, 640)  # limits of an image's longer side on a grid, in pixels
GAP = 12  # pixels between the panels of a grid
CAPTION_HEIGHT = 28


def prediction_grid(
    dataset_name: str,
    predictions: Sequence[Mapping[str, Any]],
    num_images: int = 12,
    score_threshold: float = 0.5,
) -> np.ndarray:
    """Draws ground truth and, to its right, predictions for images of a registered dataset.

    Args:
        dataset_name: a dataset in Detectron2's catalogue; the images are spread evenly over it.
        predictions: in COCO's result format, as `COCOEvaluator.predictions`: one dict per instance
            with `image_id`, `category_id` of the dataset, `bbox` (x, y, width, height), `score`
            and perhaps `segmentation` as run-length encoding.
        num_images: number of images to show, if there are as many; at least 1.
        score_threshold: predictions with a lower score are hidden.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: `num_images` is less than 1 or the dataset is empty.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1")
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"dataset '{dataset_name}' has no images")
    metadata = MetadataCatalog.get(dataset_name)
    to_class = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    predicted = defaultdict(list)
    for each in predictions:
        if each["score"] >= score_threshold:
            label = to_class.get(each["category_id"], each["category_id"])
            instance = {**each, "category_id": label, "bbox_mode": BoxMode.XYWH_ABS}
            predicted[each["image_id"]].append(instance)

    shown = _spread(records, num_images)
    images = [read_image(record["file_name"]) for record in shown]
    side = int(np.clip(max(max(image.shape[:2]) for image in images), *PANEL_SIDES))
    panels = [
        _panel(image, instances, metadata.thing_classes, side)
        for record, image in zip(shown, images)
        for instances in (record["annotations"], predicted[record["image_id"]])
    ]
    columns = 2 * min(2, len(shown))
    titles = ["ground truth", "prediction"] * (columns // 2)
    # Pairs stand further apart than the panels of a pair.
    lefts = [2 * GAP + column * (side + GAP) + column // 2 * GAP for column in range(columns)]
    return _arrange(panels, titles, lefts, side, right=2 * GAP)


def save_prediction_grid(
    dataset_name: str,
    predictions: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    num_images: int = 12,
    score_threshold: float = 0.5,
) -> None:
    """Writes `prediction_grid` to a path, whose extension (.png, .jpg) gives the format."""
    grid = prediction_grid(dataset_name, predictions, num_images, score_threshold)
    with new_file(path) as temporary:
        Image.fromarray(grid).save(temporary)


def contact_grid(
    records: Sequence[Mapping[str, Any]], class_names: Sequence[str], num_images: int = 12
) -> np.ndarray:
    """Draws the annotations of images of a dataset, spread evenly over it, four to a row.

    Args:
        records: in Detectron2's format; at least one.
        class_names: one name per class.
        num_images: number of images to show, if there are as many; at least 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: an image cannot be read.
    """
    shown, side = _spread(records, num_images), PANEL_SIDES[0]
    panels = [
        _panel(read_image(record["file_name"]), record["annotations"], class_names, side)
        for record in shown
    ]
    titles = [os.path.basename(record["file_name"]) for record in shown]
    lefts = [GAP + column * (side + GAP) for column in range(min(4, len(shown)))]
    return _arrange(panels, titles, lefts, side, right=GAP)


def _spread(records: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` records, spread evenly."""
    chosen = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[index] for index in chosen]


def _panel(
    image: np.ndarray,
    instances: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    side: int,
) -> np.ndarray:
    """An image (H, W, 3) with its instances, scaled so that the longer side is `side`.

    Instances are annotations in Detectron2's format, with a `score` if they are predicted.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA

    def scaled_mask(encoded: Any) -> np.ndarray:
        if not encoded:
            return np.zeros(size[::-1], bool)
        if isinstance(encoded, list):
            encoded = mask_util.merge(mask_util.frPyObjects(encoded, height, width))
        coverage = mask_util.decode(encoded).astype(np.float32)
        coverage = cv2.resize(coverage, size, interpolation=interpolation)
        if scale > 1:  # hides the pixel steps of small images
            coverage = cv2.GaussianBlur(coverage, (0, 0), sigmaX=0.5 * scale)
        return coverage > 0.5

    def caption(instance: Mapping[str, Any]) -> str:
        name = class_names[instance["category_id"]]
        if "score" in instance:
            return f"{name} {instance['score']:.2f}"
        return f"{name} (crowd)" if instance.get("iscrowd") else name

    boxes = [
        BoxMode.convert(list(each["bbox"]), each["bbox_mode"], BoxMode.XYXY_ABS)
        for each in instances
    ]
    return draw_captioned(
        cv2.resize(image, size, interpolation=interpolation),
        np.array(boxes).reshape(-1, 4) * scale,
        [scaled_mask(each.get("segmentation")) for each in instances],
        [each["category_id"] for each in instances],
        [caption(each) for each in instances],
    )


def _arrange(
    panels: Sequence[np.ndarray],
    titles: Sequence[str],
    lefts: Sequence[int],
    side: int,
    right: int,
) -> np.ndarray:
    """Puts panels on white paper, one per entry of `lefts` to a row.

    Args:
        panels: of at most `side` × `side` pixels.
        titles: one per panel, or of the first row alone. Long ones lose their beginning.
        lefts: x of each column.
        side: width of the columns.
        right: margin on the right.
    """
    count = len(lefts)
    rows = [panels[start : start + count] for start in range(0, len(panels), count)]
    heights = [max(panel.shape[0] for panel in row) for row in rows]
    titled_rows = -(-len(titles) // count)
    height = sum(heights) + titled_rows * CAPTION_HEIGHT + (len(rows) + 1) * GAP
    grid = Image.new("RGB", (lefts[-1] + side + right, height), PAPER)
    pen = ImageDraw.Draw(grid)
    top = GAP
    for number, (row, row_height) in enumerate(zip(rows, heights)):
        if number < titled_rows:
            for left, title in zip(lefts, titles[number * count :]):
                font = font_for(title, 15)
                while pen.textlength(title, font=font) > side:
                    title = "…" + title.removeprefix("…")[1:]
                centre = (left + side / 2, top + CAPTION_HEIGHT / 2)
                pen.text(centre, title, font=font, fill=INK, anchor="mm")
            top += CAPTION_HEIGHT
        for left, panel in zip(lefts, row):
            x, y = left + (side - panel.shape[1]) // 2, top + (row_height - panel.shape[0]) // 2
            grid.paste(Image.fromarray(panel), (x, y))
        top += row_height + GAP
    return np.asarray(grid)
