"""Pascal VOC's format: an XML file per image, with boxes."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import DatasetError
from ..images import IMAGE_EXTENSIONS
from .dataset import Dataset, SplitBuilder, split_named

_LIST_FOLDERS = ("ImageSets/Main", "ImageSets/Segmentation")


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class _Image:
    path: Path
    height: int
    width: int
    objects: tuple[_Object, ...]


def find_xml(folder: Path) -> list[Path]:
    """The annotation files of a folder, by name."""
    return sorted(path for path in folder.rglob("*.xml") if not path.name.startswith("."))


def read_voc(folder: Path) -> Dataset:
    """Reads all XML files of a folder.

    Splits are the lists `ImageSets/Main/train.txt` and so on, or folders named `train`, `valid` and
    so on; without either, all images are for training. Classes are sorted by name. Objects marked
    `difficult` become crowded regions, which training ignores and an evaluation does not count.

    Coordinates are those of pixels counted from 1, as in VOC: a box from 1 to 10 is 10 pixels wide.
    If any coordinate of the dataset is less than 1, all of them are taken as distances from the
    upper left corner.

    Raises:
        DatasetError: a file is not readable, or lacks a value.
    """
    files = find_xml(folder)
    images = {path: _read(path) for path in files}
    found = [each for image in images.values() for each in image.objects]
    names = sorted({each.name for each in found})
    if not names:
        raise DatasetError(f"the {len(files)} XML files in '{folder}' have no object")
    counts_from_1 = all(min(each.box) >= 1 for each in found)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    splits = {}
    for split, paths in _splits(folder, files).items():
        builder = SplitBuilder({number: name for name, number in numbers.items()})
        for path in paths:
            image = images[path]
            builder.add_image(image.path, image.height, image.width)
            for each in image.objects:
                x0, y0, x1, y1 = each.box
                box = (x0 - counts_from_1, y0 - counts_from_1, x1, y1)
                builder.add_object(numbers[each.name], box, is_crowd=each.is_difficult)
        splits[split] = builder.build()
    notes = []
    if not counts_from_1:
        notes.append("Coordinates less than 1 occur, so that they are not counted from 1 as in VOC")
    difficult = sum(each.is_difficult for each in found)
    if difficult:
        notes.append(f"{difficult} objects are marked 'difficult', and ignored as crowds are")
    return Dataset("Pascal VOC", splits, tuple(notes))


def _splits(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    by_stem = {path.stem: path for path in files}
    for name in _LIST_FOLDERS:
        lists = {path.stem: path for path in sorted((folder / name).glob("*.txt"))}
        if "train" in lists or "trainval" in lists:
            lists["train"] = lists.get("train", lists.get("trainval", Path()))
            return {
                split: list(_listed(lists[split], by_stem))
                for split in ("train", "val", "test")
                if split in lists
            }
    groups: dict[str, list[Path]] = {}
    for path in files:
        named = (split_named(part) for part in path.relative_to(folder).parts[:-1])
        groups.setdefault(next(filter(None, named), "train"), []).append(path)
    return groups


def _listed(path: Path, by_stem: dict[str, Path]) -> Iterator[Path]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if words:
            if words[0] not in by_stem:
                raise DatasetError(f"'{path}', line {number}: there is no '{words[0]}.xml'")
            yield by_stem[words[0]]


def _read(path: Path) -> _Image:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DatasetError(f"'{path}', line {error.position[0]}: not XML ({error})") from error
    except OSError as error:
        raise DatasetError(f"cannot read '{path}' ({error.strerror})") from error
    size = root.find("size")
    if root.tag != "annotation" or size is None:
        raise DatasetError(f"'{path}' has no <size> in an <annotation>; export it again")
    height, width = (int(_number(path, size, key)) for key in ("height", "width"))
    if height < 1 or width < 1:
        raise DatasetError(f"'{path}' has the <size> {width} × {height}; write the image's pixels")
    objects = []
    for number, element in enumerate(root.iter("object"), start=1):
        name, box = element.findtext("name", "").strip(), element.find("bndbox")
        if not name or box is None:
            raise DatasetError(f"'{path}': object {number} has no <name> or no <bndbox>")
        x0, y0, x1, y1 = (_number(path, box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
        is_difficult = element.findtext("difficult", "0").strip() == "1"
        objects.append(_Object(name, (x0, y0, x1, y1), is_difficult))
    return _Image(_find_image(path, root.findtext("filename", "")), height, width, tuple(objects))


def _number(path: Path, element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key, "")
    try:
        return float(text)
    except ValueError:
        raise DatasetError(
            f"'{path}': <{key}> of <{element.tag}> is {text!r}, not a number"
        ) from None


def _find_image(path: Path, name: str) -> Path:
    name = name.strip().replace("\\", "/").rpartition("/")[2]
    folders = [path.parent, *(path.parent.parent / each for each in ("JPEGImages", "images"))]
    for folder in folders:
        stems = [folder / f"{path.stem}{extension}" for extension in IMAGE_EXTENSIONS]
        for candidate in ([folder / name] if name else []) + stems:
            if candidate.is_file():
                return candidate
    raise DatasetError(
        f"the image '{name or path.stem}' of '{path}' is in none of "
        f"{', '.join(repr(str(folder)) for folder in folders)}"
    )
