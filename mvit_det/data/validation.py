"""Validation of datasets in COCO's format: all that is wrong, found before training starts."""

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE

from ..errors import DatasetError, ImageError
from .coco import CocoDataset, image_path
from .images import read_image_size
from .urls import is_url

logger = logging.getLogger(__name__)

# Training compares each object of an image with each anchor, and, as objects are proposals too,
# with each other: the memory for that grows with the number of objects and with its square.
MAX_OBJECTS = 5000

_MAX_EXAMPLES = 3
_MIN_POINTS = 3  # of a polygon
_TOLERANCE = 0.5  # pixels by which a box or polygon may leave its image without a warning
# Pixels, and share of its longer side, by which polygons may leave their box without a warning.
_BOX_TOLERANCE, _BOX_SHARE = 2.0, 0.05

Severity = Literal["error", "warning"]


@dataclass
class Issue:
    """One kind of problem, and where it occurs.

    Attributes:
        severity: an "error" prevents training; after a "warning" training goes on, and `remedy`
            says how the objects are treated.
        what: the kind.
        remedy: what to do, or what is done.
        count: how often it occurs.
        examples: the first few occurrences.
    """

    severity: Severity
    what: str
    remedy: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (", …" if self.count > len(self.examples) else "")
        return f"{self.severity}: {self.what}: {self.count} ({shown}); {self.remedy}"


def check_dataset(
    dataset: CocoDataset,
    folder: str | os.PathLike[str] | None,
    *,
    need_objects: bool = True,
    need_masks: bool = False,
) -> None:
    """Logs the warnings of `find_issues` and raises its errors.

    Raises:
        DatasetError: there are errors; the message lists all of them, and the warnings.
    """
    issues = find_issues(dataset, folder, need_objects=need_objects, need_masks=need_masks)
    lines = "".join(f"\n  {issue}" for issue in issues)
    if any(issue.severity == "error" for issue in issues):
        raise DatasetError(f"the dataset '{dataset.path}' cannot be used as it is:{lines}")
    if issues:
        logger.warning("About the dataset '%s':%s", dataset.path, lines)


def find_issues(
    dataset: CocoDataset,
    folder: str | os.PathLike[str] | None,
    *,
    need_objects: bool = True,
    need_masks: bool = False,
) -> list[Issue]:
    """Checks annotations, and that their images exist.

    Only the header of each image is read: its size is compared, but corrupt pixels go unnoticed.
    Sizes are those after the EXIF orientation is applied.

    Args:
        dataset: as `read_coco` returns it.
        folder: of the images, or its URL; None skips the image files.
        need_objects: whether a dataset without annotations is an error, as in training.
        need_masks: whether it is an error that some objects have masks and others have none.

    Returns:
        The issues, errors first; [] if all is well.
    """
    issues = _Issues()
    _check_categories(issues, dataset)
    sizes = _check_images(issues, dataset.images, folder)
    _check_annotations(issues, dataset, sizes)
    if not dataset.annotations:
        remedy = "annotate some" if need_objects else "evaluation has nothing to count"
        severity: Severity = "error" if need_objects else "warning"
        issues.add(severity, "no object is annotated", "'annotations' is empty", remedy)
    elif need_objects and all(each["iscrowd"] == 1 for each in dataset.annotations):
        issues.error(
            "no object but crowds",
            "'iscrowd' is 1 in all annotations",
            "write 'iscrowd': 0 for objects: training skips crowds",
        )
    if dataset.has_masks:
        for annotation in dataset.annotations:
            if "segmentation" not in annotation and not annotation["iscrowd"]:
                issues.add(
                    "error" if need_masks else "warning",
                    "object without a mask where others have one",
                    f"annotation {annotation.get('id')!r}",
                    "add its mask, or train boxes alone with a model without a mask head",
                )
    return issues.sorted()


def box_error(box: Any) -> str:
    """Says why a box is unusable; '' if it is fine.

    Args:
        box: should be four finite numbers in pixels: x, y and either width, height or x, y.
    """
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        return "box that is not four numbers"
    return "" if _all_finite(box) else "box with NaN, infinite or no numbers"


def segmentation_error(segmentation: Any, height: int, width: int) -> str:
    """Says why a mask is unusable; '' if it is fine.

    Args:
        segmentation: as in COCO: polygons, each a list x0, y0, x1, y1, … in pixels, or run-length
            encoding with `size` and `counts`, plain or compressed. None and [] are no mask.
        height, width: of the image in pixels.
    """
    if segmentation is None:
        return ""
    if isinstance(segmentation, dict):
        return _run_length_error(segmentation, height, width)
    if not isinstance(segmentation, list):
        return "mask that is neither polygons nor run-length encoding"
    for polygon in segmentation:
        if not isinstance(polygon, Sequence) and hasattr(polygon, "tolist"):
            polygon = polygon.tolist()
        if not isinstance(polygon, Sequence) or isinstance(polygon, str):
            return "polygon that is not a list of numbers"
        if len(polygon) % 2:
            return "polygon with an odd number of coordinates"
        if len(polygon) < 2 * _MIN_POINTS:
            return "polygon with less than three points"
        if not _all_finite(polygon):
            return "polygon with NaN, infinite or no numbers"
    return ""


def is_integer(value: Any) -> bool:
    """Whether a value is an integer that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_area(value: Any) -> bool:
    """Whether a value can be the area of an object."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value < 2**63


def _all_finite(numbers: Sequence[Any]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except (TypeError, OverflowError):
        return False


def _run_length_error(encoded: Mapping[str, Any], height: int, width: int) -> str:
    """Checks that the runs fill the image: pycocotools reads lists that do not without a word."""
    size: Any = encoded.get("size")
    counts: Any = encoded.get("counts")
    if list(size if isinstance(size, Sequence) else ()) != [height, width]:
        return "run-length encoding of another size than the image's"
    try:
        if isinstance(counts, (str, bytes)):
            code = counts.encode() if isinstance(counts, str) else counts
            (plain,) = toUncompressedRLE([{"size": [height, width], "counts": code}])
            counts = plain["counts"]
        fits = all(length >= 0 for length in counts) and sum(counts) == height * width
    except (TypeError, ValueError, RuntimeError):
        fits = False
    return "" if fits else "run-length encoding that does not fill the image"


class _Issues:
    """Collects issues by kind."""

    def __init__(self) -> None:
        self._issues: dict[str, Issue] = {}

    def add(self, severity: Severity, what: str, example: str, remedy: str) -> None:
        issue = self._issues.setdefault(what, Issue(severity, what, remedy))
        issue.count += 1
        if len(issue.examples) < _MAX_EXAMPLES:
            issue.examples.append(example)

    def error(self, what: str, example: str, remedy: str) -> None:
        self.add("error", what, example, remedy)

    def warning(self, what: str, example: str, remedy: str) -> None:
        self.add("warning", what, example, remedy)

    def sorted(self) -> list[Issue]:
        """Errors first, else in the order in which they were found."""
        return sorted(self._issues.values(), key=lambda issue: issue.severity)


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_ids(issues: _Issues, items: Sequence[Mapping[str, Any]], kind: str) -> None:
    for number, item in enumerate(items):
        if not is_integer(item.get("id")):
            issues.error(
                f"{kind} whose 'id' is missing or not an integer",
                f"number {number} of the list: {item.get('id')!r}",
                "number them",
            )
    ids = (item["id"] for item in items if is_integer(item.get("id")))
    for repeated in _repeated(ids):
        issues.error(f"id of more than one {kind}", str(repeated), "renumber them")


def _is_unicode(text: str) -> bool:
    """Whether a string can be written to a file: JSON can hold one half of a letter."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_categories(issues: _Issues, dataset: CocoDataset) -> None:
    categories, annotations = dataset.categories, dataset.annotations
    _check_ids(issues, categories, "category")
    if not categories:
        issues.error("no category is named", "'categories' is empty", "name the classes")
    for category in categories:
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            issues.error("category without a name", f"category {category.get('id')!r}", "name it")
        elif not _is_unicode(name):
            issues.error("category name that is no Unicode", repr(name), "rename it")
    names = (category["name"] for category in categories if isinstance(category.get("name"), str))
    for repeated in _repeated(names):
        issues.error("name of more than one category", f"'{repeated}'", "merge or rename them")
    used = {
        annotation["category_id"]
        for annotation in annotations
        if is_integer(annotation.get("category_id"))
    }
    if annotations:
        for category in categories:
            if is_integer(category.get("id")) and category["id"] not in used:
                issues.warning(
                    "category without objects", f"'{category.get('name')}'", "it is not learned"
                )


def _check_images(
    issues: _Issues,
    images: Sequence[Mapping[str, Any]],
    folder: str | os.PathLike[str] | None,
) -> dict[int, tuple[int, int]]:
    """Returns the annotated (height, width) of each image id; (0, 0) where it is not usable."""
    _check_ids(issues, images, "image")
    if not images:
        issues.error("no image is listed", "'images' is empty", "list the images")
    sizes = {}
    height: Any
    width: Any
    for image in images:
        name, height, width = (image.get(key) for key in ("file_name", "height", "width"))
        size = (0, 0)
        if is_integer(height) and is_integer(width) and min(height, width) > 0:
            size = (height, width)
        if is_integer(image.get("id")):
            sizes[image["id"]] = size
        if size == (0, 0):
            issues.error(
                "image whose 'height' or 'width' is not a positive integer",
                f"{name!r}: {height!r} × {width!r}",
                "give the size of the image in pixels",
            )
        try:
            path = image_path(folder or "", name)
        except DatasetError:
            issues.error(
                "image outside of the folder of images",
                repr(name),
                "name images relative to the folder and without '..'",
            )
            continue
        if folder is not None:
            _check_file(issues, path, repr(name), size, folder)
    names = (image["file_name"] for image in images if isinstance(image.get("file_name"), str))
    for repeated in _repeated(names):
        issues.warning("image that is listed more than once", repr(repeated), "all are used")
    return sizes


def _check_file(
    issues: _Issues,
    path: str | os.PathLike[str],
    name: str,
    annotated: tuple[int, int],
    folder: str | os.PathLike[str],
) -> None:
    if not is_url(path) and not os.path.lexists(path):
        issues.error(
            "image that is missing", name, f"check the folder '{folder}', or remove its entry"
        )
        return
    try:
        size = read_image_size(path)
    except ImageError as error:
        issues.error("image that cannot be read", str(error), "replace it or remove its entry")
        return
    if annotated != (0, 0) and size != annotated:
        turned = ""
        if size == annotated[::-1]:
            turned = ", perhaps because its EXIF orientation was not applied"
        issues.error(
            "image of another size than annotated (height × width)",
            f"{name} is {size[0]} × {size[1]} and not {annotated[0]} × {annotated[1]}{turned}",
            "annotate the image as it is shown",
        )


def _check_annotations(
    issues: _Issues, dataset: CocoDataset, sizes: Mapping[int, tuple[int, int]]
) -> None:
    _check_ids(issues, dataset.annotations, "annotation")
    categories = {each["id"] for each in dataset.categories if is_integer(each.get("id"))}
    objects: Counter[int] = Counter()
    known: set[tuple[Any, ...]] = set()
    has_area = False
    category: Any
    image: Any
    for annotation in dataset.annotations:
        which = f"annotation {annotation.get('id')!r}"
        category, image = annotation.get("category_id"), annotation.get("image_id")
        if not is_integer(category) or category not in categories:
            issues.error(
                "object of an unknown category",
                f"{which}: category {category!r}",
                "add the category or correct 'category_id'",
            )
        size = (0, 0)
        if not is_integer(image) or image not in sizes:
            issues.error(
                "object in an unknown image",
                f"{which}: image {image!r}",
                "add the image or remove the annotation",
            )
        else:
            size = sizes[image]
            objects[image] += 1
        box = _check_box(issues, annotation.get("bbox"), which, *size)
        if box is not None and size != (0, 0) and is_integer(category):
            if (image, category, *box) in known:
                issues.warning(
                    "object that is annotated more than once",
                    f"{which}: {list(box)}",
                    "all are used, and evaluation counts those that cannot be found as missed",
                )
            known.add((image, category, *box))
        has_area |= box is not None and box[2] > 0 and box[3] > 0
        _check_segmentation(issues, annotation.get("segmentation"), box, which, *size)
        area = annotation.get("area")
        if box is not None and area is not None and box[2] * box[3] > 0 and not is_area(area):
            issues.warning(
                "'area' that is not a positive number",
                f"{which}: {area!r}",
                "evaluation takes the area of the box",
            )
        if annotation["iscrowd"] not in (0, 1):
            issues.error(
                "'iscrowd' that is neither 0 nor 1",
                f"{which}: {annotation['iscrowd']!r}",
                "write 1 for a crowded region and 0 for an object",
            )
        elif annotation["iscrowd"]:
            issues.warning(
                "crowd ('iscrowd': 1)",
                which,
                "training skips it, evaluation ignores detections inside it",
            )
    _check_corners(issues, dataset, sizes)
    if dataset.annotations and not has_area:
        issues.error(
            "no box has an area",
            "all widths or heights are 0 or unusable",
            "write x, y, width, height in pixels",
        )
    for image, number in objects.items():
        if number > MAX_OBJECTS:
            issues.warning(
                f"image with more than {MAX_OBJECTS} objects",
                f"image {image}: {number}",
                f"training fails if augmentation leaves more than {MAX_OBJECTS}; cut it into "
                "smaller images",
            )


def _check_box(
    issues: _Issues, box: Any, which: str, height: int, width: int
) -> Sequence[float] | None:
    """Returns the box if it can be read; height and width are 0 if the image is not known."""
    problem = box_error(box)
    remedy = "write x, y, width, height in pixels"
    if problem:
        issues.error(problem, f"{which}: {box!r}", remedy)
        return None
    x, y, box_width, box_height = box
    example = f"{which}: {list(box)}"
    inside = f"{example} in {height} × {width}"
    if box_width < 0 or box_height < 0:
        issues.error("box with a negative size", example, remedy)
    elif box_width == 0 or box_height == 0:
        issues.warning("box without area", example, "training skips it")
    elif height and (x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0):
        issues.error("box outside of its image", inside, f"{remedy}, or remove the annotation")
    elif height and min(x, y) >= 0 and max(x + box_width, y + box_height) <= 1 < max(height, width):
        if box_width < 1 or box_height < 1:
            issues.warning(
                "box that seems to be normalised to 0…1",
                inside,
                "its numbers are taken as pixels; multiply them by the image's width and height",
            )
    elif height and not _lies_in((x, y, x + box_width, y + box_height), width, height):
        issues.warning("box that leaves its image", inside, "it is clipped to the image")
    return box


def _check_corners(
    issues: _Issues, dataset: CocoDataset, sizes: Mapping[int, tuple[int, int]]
) -> None:
    """Warns if all boxes can be read as x0, y0, x1, y1, and some cannot as x, y, width, height."""
    leaving = []
    for annotation in dataset.annotations:
        box: Any = annotation.get("bbox")
        image: Any = annotation.get("image_id")
        height, width = sizes.get(image, (0, 0)) if is_integer(image) else (0, 0)
        if box_error(box) or not height:
            return
        x, y, third, fourth = box
        if not (x < third and y < fourth and _lies_in(box, width, height)):
            return
        if not _lies_in((x, y, x + third, y + fourth), width, height):
            leaving.append(
                f"annotation {annotation.get('id')!r}: {list(box)} in {height} × {width}"
            )
    for example in leaving:
        issues.warning(
            "box that seems to be x0, y0, x1, y1, as all boxes do",
            example,
            "its last two numbers are taken as width and height; subtract x0 and y0 from them",
        )


def _check_segmentation(
    issues: _Issues,
    segmentation: Any,
    box: Sequence[float] | None,
    which: str,
    height: int,
    width: int,
) -> None:
    problem = segmentation_error(segmentation, height, width) if height else ""
    if problem:
        issues.error(problem, which, "correct or remove it")
    if problem or not height or not isinstance(segmentation, list):
        return
    xs = [x for polygon in segmentation for x in polygon[0::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    corners = min(xs), min(ys), max(xs), max(ys)
    example = f"{which}: x {corners[0]:g} to {corners[2]:g}, y {corners[1]:g} to {corners[3]:g}"
    if not _lies_in(corners, width, height):
        issues.warning(
            "polygon that leaves its image",
            f"{example} in {height} × {width}",
            "it is clipped to the image",
        )
    if box is None or box[2] <= 0 or box[3] <= 0:
        return
    x, y, box_width, box_height = box
    tolerance = _BOX_TOLERANCE + _BOX_SHARE * max(box_width, box_height)
    shifted = corners[0] - x, corners[1] - y, corners[2] - x, corners[3] - y
    if not _lies_in(shifted, box_width, box_height, tolerance):
        issues.warning(
            "polygon outside of its box",
            f"{example}, box {list(box)}",
            "training takes the box as it is and clips the mask to it; correct one of them",
        )


def _lies_in(
    corners: Sequence[float], width: float, height: float, tolerance: float = _TOLERANCE
) -> bool:
    """Whether x0, y0, x1, y1 lie in [0, width] and [0, height], give or take the tolerance."""
    x0, y0, x1, y1 = corners
    return min(x0, y0) >= -tolerance and x1 <= width + tolerance and y1 <= height + tolerance
