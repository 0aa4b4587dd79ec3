"""All that is wrong with a dataset in COCO's format, found before training starts."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import DatasetError, ImageError
from .annotations import MOST_OBJECTS, box_error, segmentation_error
from .coco_json import image_path
from .images import read_image_size

logger = logging.getLogger(__name__)

_MOST_EXAMPLES = 3
_OUTSIDE = 0.5  # pixels by which a box may leave its image without a word

Severity = Literal["error", "warning"]


@dataclass
class Issue:
    """One kind of thing that is wrong, and where.

    Attributes:
        severity: with an "error" training cannot start; with a "warning" it does, and the text
            says what becomes of the objects.
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


class _Issues:
    """Collects issues, errors first, in the order in which they are found."""

    def __init__(self) -> None:
        self._issues: dict[str, Issue] = {}

    def add(self, severity: Severity, what: str, example: str, remedy: str) -> None:
        problem = self._issues.setdefault(what, Issue(severity, what, remedy))
        problem.count += 1
        if len(problem.examples) < _MOST_EXAMPLES:
            problem.examples.append(example)

    def error(self, what: str, example: str, remedy: str) -> None:
        self.add("error", what, example, remedy)

    def warning(self, what: str, example: str, remedy: str) -> None:
        self.add("warning", what, example, remedy)

    def issues(self) -> list[Issue]:
        return sorted(self._issues.values(), key=lambda problem: problem.severity)


def find_issues(
    dataset: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
    *,
    need_objects: bool = True,
    need_masks: bool = False,
) -> list[Issue]:
    """Checks what a file of annotations says, and of the images that they are there.

    Of each image the header alone is read: its size is compared, but damage to its pixels goes
    unnoticed. Sizes are those after the EXIF orientation is applied.

    Args:
        dataset: as `read_coco_json` returns it.
        folder: of the images; None leaves the files out.
        need_objects: whether a dataset without annotations is an error, as in training.
        need_masks: whether it is an error that some objects have masks and others have none.

    Returns:
        The issues, errors first; [] if all is well.
    """
    issues = _Issues()
    _check_categories(issues, dataset["categories"], dataset["annotations"])
    sizes = _check_images(issues, dataset["images"], folder)
    _check_annotations(issues, dataset, sizes)
    severity: Severity = "error" if need_objects else "warning"
    if not dataset["annotations"]:
        remedy = "annotate some" if need_objects else "evaluation has nothing to count"
        issues.add(severity, "no object is annotated", "'annotations' is empty", remedy)
    _check_masks(issues, dataset["annotations"], "error" if need_masks else "warning")
    return issues.issues()


def check_dataset(
    dataset: Mapping[str, Any],
    json_file: str,
    folder: str | os.PathLike[str] | None,
    *,
    need_objects: bool = True,
    need_masks: bool = False,
) -> None:
    """`find_issues` that logs warnings and raises errors.

    Raises:
        DatasetError: there are errors; the message lists all of them, and the warnings.
    """
    issues = find_issues(dataset, folder, need_objects=need_objects, need_masks=need_masks)
    lines = "".join(f"\n  {problem}" for problem in issues)
    if any(problem.severity == "error" for problem in issues):
        raise DatasetError(f"the dataset '{json_file}' cannot be used as it is:{lines}")
    if issues:
        logger.warning("About the dataset '%s':%s", json_file, lines)


def _is_whole(value: Any) -> bool:
    """Whether it is an integer that fits into 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _check_ids(issues: _Issues, items: Sequence[Mapping[str, Any]], kind: str) -> None:
    for number, item in enumerate(items):
        if not _is_whole(item.get("id")):
            issues.error(
                f"{kind} whose 'id' is missing or not an integer",
                f"number {number} of the list: {item.get('id')!r}",
                "number them",
            )
    whole = (item["id"] for item in items if _is_whole(item.get("id")))
    for repeated in _repeated(whole):
        issues.error(f"id of more than one {kind}", str(repeated), "number them anew")


def _check_categories(
    issues: _Issues,
    categories: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
) -> None:
    _check_ids(issues, categories, "category")
    if not categories:
        issues.error("no category is named", "'categories' is empty", "name the classes")
    for category in categories:
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            issues.error("category without a name", f"category {category.get('id')!r}", "name it")
    names = (category["name"] for category in categories if isinstance(category.get("name"), str))
    for repeated in _repeated(names):
        issues.error("name of more than one category", f"'{repeated}'", "join or rename them")
    used = {
        annotation["category_id"]
        for annotation in annotations
        if _is_whole(annotation.get("category_id"))
    }
    if annotations:
        for category in categories:
            if _is_whole(category.get("id")) and category["id"] not in used:
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
        if _is_whole(height) and _is_whole(width) and min(height, width) > 0:
            size = (height, width)
        if _is_whole(image.get("id")):
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
    path: os.PathLike[str],
    name: str,
    annotated: tuple[int, int],
    folder: str | os.PathLike[str],
) -> None:
    if not os.path.lexists(path):
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
    issues: _Issues, dataset: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]]
) -> None:
    annotations = dataset["annotations"]
    _check_ids(issues, annotations, "annotation")
    categories = {
        category["id"] for category in dataset["categories"] if _is_whole(category.get("id"))
    }
    objects: Counter[int] = Counter()
    for annotation in annotations:
        which = f"annotation {annotation.get('id')!r}"
        category, image = annotation.get("category_id"), annotation.get("image_id")
        if not _is_whole(category) or category not in categories:
            issues.error(
                "object of an unknown category",
                f"{which}: category {category!r}",
                "add the category or correct 'category_id'",
            )
        if not _is_whole(image) or image not in sizes:
            issues.error(
                "object in an unknown image",
                f"{which}: image {image!r}",
                "add the image or remove the annotation",
            )
            height, width = 0, 0
        else:
            height, width = sizes[image]
            objects[image] += 1
        _check_box(issues, annotation.get("bbox"), which, height, width)
        if height:
            problem = segmentation_error(annotation.get("segmentation"), height, width)
            if problem:
                issues.error(problem, which, "mend or remove it")
        if annotation.get("iscrowd", 0):
            issues.warning(
                "crowd ('iscrowd': 1)", which, "training leaves it out, evaluation counts it so"
            )
    for image, number in objects.items():
        if number > MOST_OBJECTS:
            issues.warning(
                f"image with more than {MOST_OBJECTS} objects",
                f"image {image}: {number}",
                "training takes no more of what augmentation leaves; cut it into smaller images",
            )


def _check_box(issues: _Issues, box: Any, which: str, height: int, width: int) -> None:
    """`height` and `width` are 0 where the size of the image is not known."""
    problem = box_error(box)
    if problem:
        issues.error(problem, f"{which}: {box!r}", "write x, y, width, height in pixels")
        return
    x, y, box_width, box_height = box
    example = f"{which}: {list(box)}"
    if box_width < 0 or box_height < 0:
        issues.error("box with a negative size", example, "write x, y, width, height in pixels")
    elif box_width == 0 or box_height == 0:
        issues.warning("box without area", example, "training leaves it out")
    elif height and (x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0):
        issues.error(
            "box outside of its image",
            f"{example} in {height} × {width}",
            "write x, y, width, height in pixels, or remove the annotation",
        )
    elif height and (
        min(x, y) < -_OUTSIDE
        or x + box_width > width + _OUTSIDE
        or y + box_height > height + _OUTSIDE
    ):
        issues.warning(
            "box that leaves its image",
            f"{example} in {height} × {width}",
            "it is clipped to the image",
        )


def _check_masks(
    issues: _Issues, annotations: Sequence[Mapping[str, Any]], severity: Severity
) -> None:
    without = [
        annotation
        for annotation in annotations
        if not annotation.get("segmentation") and not annotation.get("iscrowd", 0)
    ]
    if not has_masks(annotations):
        return
    for annotation in without:
        issues.add(
            severity,
            "object without a mask where others have one",
            f"annotation {annotation.get('id')!r}",
            "add its mask, or train boxes alone with a model without a mask head",
        )


def has_masks(annotations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any object has a mask; crowds do not count."""
    return any(
        annotation.get("segmentation") and not annotation.get("iscrowd", 0)
        for annotation in annotations
    )
