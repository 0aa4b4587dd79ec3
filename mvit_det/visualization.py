"""Image grids: predictions beside ground truth, and the annotations of a dataset."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_util

from .data.images import read_image
from .drawing import INK, PAPER, draw_captioned

PANEL_SIDES = (320, 640)  # least and most pixels of an image's longer side on a grid
GAP = 12  # pixels between the panels of a grid
CAPTION_HEIGHT = 28
TITLES = ("ground truth", "prediction")


def prediction_grid(
    dataset_name: str,
    predictions: Sequence[Mapping[str, Any]],
    num_images: int = 12,
    score_threshold: float = 0.5,
) -> np.ndarray:
    """Draws ground truth and, to its right, predictions for images of a registered dataset.

    Args:
        dataset_name: a dataset in Detectron2's catalog; the images are spread evenly over it.
        predictions: COCO's result format, as in ``coco_instances_results.json``: one dict per
            instance with ``image_id``, ``category_id`` of the dataset, ``bbox`` (x, y, width,
            height), ``score`` and perhaps ``segmentation`` as run-length encoding.
        num_images: how many images to show, if there are as many; at least 1.
        score_threshold: predictions with a lower score are left out.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: ``num_images`` is less than 1 or the dataset is empty.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be at least 1")
    records = DatasetCatalog.get(dataset_name)
    if not records:
        raise ValueError(f"dataset '{dataset_name}' has no images")
    metadata = MetadataCatalog.get(dataset_name)
    to_label = metadata.get("thing_dataset_id_to_contiguous_id") or {}
    predictions_of_image = defaultdict(list)
    for prediction in predictions:
        if prediction["score"] >= score_threshold:
            predictions_of_image[prediction["image_id"]].append(prediction)

    chosen = np.linspace(0, len(records) - 1, min(num_images, len(records))).round().astype(int)
    shown = [records[index] for index in chosen]
    panel_side = max(max(record["height"], record["width"]) for record in shown)
    panel_side = min(max(panel_side, PANEL_SIDES[0]), PANEL_SIDES[1])
    pairs = []
    for record in shown:
        image = read_image(record["file_name"])
        truth = [
            _Drawable(annotation, annotation["category_id"], annotation["bbox_mode"])
            for annotation in record["annotations"]
        ]
        predicted = [
            _Drawable(
                prediction,
                to_label.get(prediction["category_id"], prediction["category_id"]),
                BoxMode.XYWH_ABS,
            )
            for prediction in predictions_of_image[record["image_id"]]
        ]
        left, right = (
            _panel(image, drawables, metadata.thing_classes, panel_side)
            for drawables in (truth, predicted)
        )
        pairs.append((left, right))
    return _arrange(pairs, panel_side)


def save_prediction_grid(
    dataset_name: str,
    predictions: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    num_images: int = 12,
    score_threshold: float = 0.5,
) -> None:
    """Writes :func:`prediction_grid` to ``path``, whose ending (.png, .jpg) gives the format."""
    grid = prediction_grid(dataset_name, predictions, num_images, score_threshold)
    Image.fromarray(grid).save(path)


def contact_grid(
    records: Sequence[Mapping[str, Any]], class_names: Sequence[str], num_images: int = 12
) -> np.ndarray:
    """Draws the annotations of images of a dataset, spread evenly over it, four to a row.

    Args:
        records: in Detectron2's format; at least one.
        class_names: one name per class.
        num_images: how many images to show, if there are as many; at least 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: an image cannot be read.
    """
    chosen = np.linspace(0, len(records) - 1, min(num_images, len(records))).round().astype(int)
    panels = []
    for record in (records[index] for index in chosen):
        drawables = [
            _Drawable(annotation, annotation["category_id"], annotation["bbox_mode"])
            for annotation in record["annotations"]
        ]
        image = read_image(record["file_name"])
        panels.append(_panel(image, drawables, class_names, PANEL_SIDES[0]))
    titles = [os.path.basename(records[index]["file_name"]) for index in chosen]
    return _arrange_titled(panels, titles, PANEL_SIDES[0], columns=min(4, len(panels)))


class _Drawable:
    """An annotation of a dataset or a prediction, with what drawing needs.

    ``box`` is (4,) x0, y0, x1, y1 in pixels; ``segmentation`` polygons, RLE or None.
    """

    def __init__(self, source: Mapping[str, Any], label: int, box_mode: BoxMode) -> None:
        self.label = label
        self.box = np.array(BoxMode.convert(list(source["bbox"]), box_mode, BoxMode.XYXY_ABS))
        self.segmentation = source.get("segmentation")
        self.score = source.get("score")
        self.is_crowd = bool(source.get("iscrowd", 0))

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool; all False without a segmentation."""
        if not self.segmentation:
            return np.zeros((height, width), bool)
        encoded = self.segmentation
        if isinstance(encoded, list):
            encoded = mask_util.merge(mask_util.frPyObjects(encoded, height, width))
        return mask_util.decode(encoded).astype(bool)

    def caption(self, class_names: Sequence[str]) -> str:
        """Class name with the score or the remark that this is a crowd."""
        name = class_names[self.label]
        if self.score is not None:
            return f"{name} {self.score:.2f}"
        return f"{name} (crowd)" if self.is_crowd else name


def _panel(
    image: np.ndarray, drawables: Sequence[_Drawable], class_names: Sequence[str], side: int
) -> np.ndarray:
    """``image`` (H, W, 3) with ``drawables``, scaled so that its longer side is ``side``."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    panel_size = max(round(width * scale), 1), max(round(height * scale), 1)
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA

    def panel_mask(drawable: _Drawable) -> np.ndarray:
        coverage: np.ndarray = drawable.mask(height, width).astype(np.float32)
        coverage = cv2.resize(coverage, panel_size, interpolation=interpolation)
        if scale > 1:  # hides the pixel steps of small images
            coverage = cv2.GaussianBlur(coverage, (0, 0), sigmaX=0.5 * scale)
        return coverage > 0.5

    masks = [panel_mask(drawable) for drawable in drawables]
    return draw_captioned(
        cv2.resize(image, panel_size, interpolation=interpolation),
        np.array([drawable.box * scale for drawable in drawables]).reshape(-1, 4),
        np.array(masks).reshape(-1, panel_size[1], panel_size[0]),
        [drawable.label for drawable in drawables],
        [drawable.caption(class_names) for drawable in drawables],
    )


def _arrange(pairs: Sequence[tuple[np.ndarray, np.ndarray]], panel_side: int) -> np.ndarray:
    """Puts pairs of panels on white paper, two pairs to a row, with a caption over each column.

    ``panel_side`` bounds the height and width of the panels.
    """
    pairs_per_row = min(2, len(pairs))
    rows = [pairs[start : start + pairs_per_row] for start in range(0, len(pairs), pairs_per_row)]
    row_heights = [max(panel.shape[0] for pair in row for panel in pair) for row in rows]
    pair_width = 2 * panel_side + GAP
    grid_width = pairs_per_row * pair_width + (pairs_per_row + 1) * 2 * GAP
    grid_height = CAPTION_HEIGHT + sum(row_heights) + (len(rows) + 1) * GAP
    grid = Image.new("RGB", (grid_width, grid_height), PAPER)
    pen = ImageDraw.Draw(grid)
    font = ImageFont.load_default(16)
    top = GAP
    for row_number, row in enumerate(rows):
        for pair_number, pair in enumerate(row):
            for side, (panel, title) in enumerate(zip(pair, TITLES, strict=True)):
                left = 2 * GAP + pair_number * (pair_width + 2 * GAP) + side * (panel_side + GAP)
                if row_number == 0:
                    centre = (left + panel_side / 2, GAP + CAPTION_HEIGHT / 2)
                    pen.text(centre, title, font=font, fill=INK, anchor="mm")
                x = left + (panel_side - panel.shape[1]) // 2
                y = top + CAPTION_HEIGHT + (row_heights[row_number] - panel.shape[0]) // 2
                grid.paste(Image.fromarray(panel), (x, y))
        top += row_heights[row_number] + GAP
    return np.asarray(grid)


def _arrange_titled(
    panels: Sequence[np.ndarray], titles: Sequence[str], panel_side: int, columns: int
) -> np.ndarray:
    """Puts panels on white paper, a number of them to a row, each with its title above it.

    ``panel_side`` bounds the height and width of the panels. Long titles lose their beginning.
    """
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    row_heights = [CAPTION_HEIGHT + max(panel.shape[0] for panel in row) for row in rows]
    width = columns * (panel_side + GAP) + GAP
    grid = Image.new("RGB", (width, sum(row_heights) + (len(rows) + 1) * GAP), PAPER)
    pen = ImageDraw.Draw(grid)
    font = ImageFont.load_default(14)
    top = GAP
    for row_number, row in enumerate(rows):
        for column, panel in enumerate(row):
            left = GAP + column * (panel_side + GAP)
            title = titles[row_number * columns + column]
            while pen.textlength(title, font=font) > panel_side:
                title = "…" + title.removeprefix("…")[1:]
            centre = (left + panel_side / 2, top + CAPTION_HEIGHT / 2)
            pen.text(centre, title, font=font, fill=INK, anchor="mm")
            x = left + (panel_side - panel.shape[1]) // 2
            grid.paste(Image.fromarray(panel), (x, top + CAPTION_HEIGHT))
        top += row_heights[row_number] + GAP
    return np.asarray(grid)
