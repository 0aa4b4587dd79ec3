"""LabelMe's format: a JSON file per image, with shapes."""

import base64
import binascii
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ...errors import DatasetError
from ..coco import read_json
from ..images import read_image_size
from .dataset import Dataset, SplitBuilder, bounds, split_named

_CIRCLE_POINTS = 64
_SKIPPED = ("point", "points", "line", "linestrip")  # without an area


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(folder: Path, files: list[Path]) -> Dataset:
    """Reads LabelMe's JSON files.

    Polygons, rectangles, circles and masks are objects; shapes of a label with the same `group_id`
    are one. Points and lines are skipped. Splits are folders named `train`, `val` and so on;
    without them, all images are for training. Classes are sorted by name.

    Raises:
        DatasetError: a file or its image is missing, or a shape has unusable points.
    """
    contents = {path: read_json(path) for path in files}
    for path, content in contents.items():
        if not is_labelme(content):
            raise DatasetError(f"'{path}' has no list 'shapes', as LabelMe's other files here have")
    skipped: Counter[str] = Counter()
    names = sorted(
        {str(shape.get("label")) for content in contents.values() for shape in content["shapes"]}
    )
    numbers = {name: number for number, name in enumerate(names, start=1)}
    builders: dict[str, SplitBuilder] = {}
    for path, content in contents.items():
        named = (split_named(part) for part in path.relative_to(folder).parts[:-1])
        split = next(filter(None, named), "train")
        builder = builders.setdefault(split, SplitBuilder(dict(enumerate(names, start=1))))
        image = path.parent / str(content.get("imagePath") or "").replace("\\", "/")
        if not image.is_file():
            raise DatasetError(f"there is no image '{image}', the imagePath of '{path}'")
        height, width = read_image_size(image)
        builder.add_image(image, height, width)
        for (label, _), shapes in _groups(path, content["shapes"], skipped).items():
            box, segmentation = _convert(path, shapes, height, width)
            builder.add_object(numbers[label], box, segmentation)
    notes = [f"{count} shapes of type '{kind}' are skipped" for kind, count in skipped.items()]
    return Dataset("LabelMe", {key: each.build() for key, each in builders.items()}, tuple(notes))


def _groups(
    path: Path, shapes: list[Any], skipped: Counter[str]
) -> dict[tuple[str, object], list[dict[str, Any]]]:
    """Shapes by object, in the order of the file."""
    groups: dict[tuple[str, object], list[dict[str, Any]]] = {}
    for index, shape in enumerate(shapes):
        if not isinstance(shape, dict) or not shape.get("label"):
            raise DatasetError(f"'{path}': shape {index} has no label")
        kind = shape.get("shape_type") or "polygon"
        if kind in _SKIPPED:
            skipped[kind] += 1
            continue
        group = shape.get("group_id")
        # A shape without a group is an object by itself.
        key = f"shape {index}" if group is None else f"group {group}"
        groups.setdefault((str(shape["label"]), key), []).append(shape)
    return groups


def _convert(
    path: Path, shapes: list[dict[str, Any]], height: int, width: int
) -> tuple[tuple[float, float, float, float], list[list[float]] | dict[str, Any]]:
    """Box and segmentation of an object."""
    if any(shape.get("shape_type") == "mask" for shape in shapes):
        mask = np.zeros((height, width), dtype=np.uint8, order="F")
        for shape in shapes:
            _paint(mask, path, shape)
        encoded = mask_util.encode(mask)
        x, y, w, h = mask_util.toBbox(encoded).tolist()
        rle = {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
        return (x, y, x + w, y + h), rle
    polygons = [_polygon(path, shape) for shape in shapes]
    return bounds(polygons), polygons


def _paint(mask: np.ndarray, path: Path, shape: dict[str, Any]) -> None:
    """Adds a shape to a mask, in place."""
    if shape.get("shape_type") != "mask":
        polygon = mask_util.frPyObjects([_polygon(path, shape)], *mask.shape)
        mask |= mask_util.decode(mask_util.merge(polygon))
        return
    (x, y), *_ = _points(path, shape, 1)
    try:
        part = np.array(Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or ""))))
    except (OSError, binascii.Error, ValueError) as error:
        raise DatasetError(f"'{path}' has a mask of '{shape['label']}' that is no PNG") from error
    top, left = max(round(y), 0), max(round(x), 0)
    target = mask[top : top + part.shape[0], left : left + part.shape[1]]
    target |= (part[: target.shape[0], : target.shape[1]] > 0).astype(np.uint8)


def _polygon(path: Path, shape: dict[str, Any]) -> list[float]:
    kind = shape.get("shape_type") or "polygon"
    if kind == "polygon":
        points = _points(path, shape, 3)
    elif kind == "rectangle":
        (x0, y0), (x1, y1), *_ = _points(path, shape, 2)
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle":
        (x0, y0), (x1, y1), *_ = _points(path, shape, 2)
        angles = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS, endpoint=False)
        radius = np.hypot(x1 - x0, y1 - y0)
        points = list(zip(x0 + radius * np.cos(angles), y0 + radius * np.sin(angles)))
    else:
        raise DatasetError(f"'{path}' has a shape of type '{kind}', which is not supported")
    return [float(value) for point in points for value in point]


def _points(path: Path, shape: dict[str, Any], least: int) -> list[tuple[float, float]]:
    try:
        points = [(float(x), float(y)) for x, y in shape["points"]]
    except (KeyError, TypeError, ValueError):
        points = []
    if len(points) < least or not np.isfinite(points).all():
        raise DatasetError(
            f"'{path}' has a {shape.get('shape_type') or 'polygon'} of '{shape['label']}' with the "
            f"points {shape.get('points')!r}; at least {least} pairs of numbers are needed"
        )
    return points
