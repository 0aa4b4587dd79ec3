"""Bad input gets one sentence that names the kind of problem and the value.

The tables below have a row per case: its name, how the input is made, and what the message names.
"""

import copy
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from mvit_det.data import DatasetMapper
from mvit_det.data.coco import CocoDataset, load_coco_records, read_coco
from mvit_det.data.images import read_image
from mvit_det.data.statistics import count
from mvit_det.data.validation import MAX_OBJECTS, check_dataset, find_issues
from mvit_det.errors import DatasetError, ImageError


@dataclass(frozen=True)
class Case:
    """One way in which input can be bad.

    `make` gets a path to write to (images and files), or a dataset to spoil (JSON), or a record
    to spoil (samples). `says` is a pattern of the kind of problem and the value.
    """

    name: str
    make: Callable[[Any], object]
    says: str


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(image_format, pixels=PIXELS, **options):
    """The bytes of an image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """A PNG that says it has this size, and ends there."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def writes(data):
    return lambda path: path.write_bytes(data)


def flipped_in_the_middle(data):
    """Damage in the compressed pixels of a PNG."""
    middle = len(data) // 2
    return (
        data[:middle]
        + bytes(255 - byte for byte in data[middle : middle + 20])
        + data[middle + 20 :]
    )


IMAGES = [
    Case("missing", lambda path: None, "there is no image"),
    Case("folder", Path.mkdir, "is a folder"),
    Case("zero bytes", Path.touch, "is empty"),
    Case("JPEG truncated", writes(encoded("JPEG")[:-200]), "truncated or corrupt"),
    Case("PNG truncated", writes(encoded("PNG")[:-600]), "truncated or corrupt"),
    Case("WebP truncated", writes(encoded("WEBP")[:-100]), "truncated or corrupt"),
    Case("JPEG of its first bytes", writes(encoded("JPEG")[:10]), "truncated or corrupt"),
    Case(
        "PNG with damaged pixels",
        writes(flipped_in_the_middle(encoded("PNG"))),
        "truncated or corrupt",
    ),
    Case("web page", writes(b"\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    Case("text", writes(b"not an image\n"), "is not an image"),
    Case("random bytes", writes(np.random.default_rng(1).bytes(4000)), "is not an image"),
    Case(
        "PostScript, which would run a program",
        writes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"),
        "is not an image",
    ),
    Case(
        "pointer of Git LFS",
        writes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "git lfs pull",
    ),
    Case("decompression bomb", writes(png_of_size(60_000, 60_000)), "179 million pixels"),
    Case("floating point", writes(encoded("TIFF", np.ones((4, 4), np.float32))), "floating-point"),
    Case("32 bits", writes(encoded("TIFF", np.array([[-1, 70000]], np.int32))), "-1 to 70000"),
]

FILES = [
    Case("missing", lambda path: None, "there is no annotation file"),
    Case("folder", Path.mkdir, "cannot be read"),
    Case("empty", Path.touch, "are empty"),
    Case("truncated", writes(b'{"images": [{"id": 1, "file_name": "a.j'), "are truncated"),
    Case("truncated between values", writes(b'{"images": [{"id": 1},'), "are truncated"),
    Case("not JSON", writes(b"<annotation>\n</annotation>"), r"\(line 1, column 1: .*\)"),
    Case(
        "comma too many",
        writes(b'{"images": [],\n "annotations": [1,],\n "categories": []}'),
        r"\(line 2, column \d+: .*\)",
    ),
    Case("binary", writes(b"\x80\x02}q\x00\xff\xfe"), "not text in UTF-8"),
    Case("endless brackets", writes(b"[" * 200_000), "not an annotation file|are truncated"),
    Case("number of 5000 digits", writes(b"1" * 5000), "not an annotation file"),
    Case("list", writes(b'[{"image_id": 1}]'), "holds a list"),
    Case("number", writes(b"1"), "holds a single value"),
    Case("key missing", writes(b'{"images": [], "annotations": []}'), "'categories' is missing"),
    Case(
        "object instead of list",
        writes(b'{"images": {}, "annotations": [], "categories": []}'),
        "'images' is not a list",
    ),
    Case(
        "list of numbers",
        writes(b'{"images": [], "annotations": [1], "categories": []}'),
        "'annotations' is not a list",
    ),
]


def sets(*place, **values):
    """Changes one object of a dataset: sets("annotations", 0, bbox=None)."""

    def spoil(dataset):
        for key in place:
            dataset = dataset[key]
        dataset.update(values)

    return spoil


def adds(key, index=0, **values):
    """Adds a copy of an object, with changes."""
    return lambda dataset: dataset[key].append({**copy.deepcopy(dataset[key][index]), **values})


def removes(*place, key):
    def spoil(dataset):
        for part in place:
            dataset = dataset[part]
        del dataset[key]

    return spoil


NAN, INFINITY = float("nan"), float("inf")
BOX, IMAGE, RLE = ("annotations", 0), ("images", 0), {"size": [24, 32], "counts": [100, 10, 658]}
ERRORS = [
    Case("no images", lambda d: d["images"].clear(), r"'images' is empty"),
    Case("no annotations", lambda d: d["annotations"].clear(), r"'annotations' is empty"),
    Case("no categories", lambda d: d["categories"].clear(), r"'categories' is empty"),
    Case("unknown category", sets(*BOX, category_id=9), r"\(annotation 1: category 9\)"),
    Case("no category", removes(*BOX, key="category_id"), r"\(annotation 1: category None\)"),
    Case("unknown image", sets(*BOX, image_id=77), r"\(annotation 1: image 77\)"),
    Case("image id twice", adds("images", file_name="b.png"), r"more than one image: 1 \(1\)"),
    Case("annotation id twice", adds("annotations"), r"more than one annotation: 1 \(1\)"),
    Case("category id twice", adds("categories", name="x"), r"more than one category: 1 \(3\)"),
    Case("category name twice", adds("categories", id=8), r"more than one category: 1 \('bolt'\)"),
    Case("category without a name", removes("categories", 0, key="name"), r"\(category 3\)"),
    Case("category name that is no Unicode", sets("categories", 0, name="\ud83d"), "ud83d"),
    Case("annotation without an id", removes(*BOX, key="id"), r"\(number 0 of the list: None\)"),
    Case("id as text", sets(*IMAGE, id="1st"), r"\(number 0 of the list: '1st'\)"),
    Case("crowd or not", sets(*BOX, iscrowd="yes"), r"'iscrowd' .*\(annotation 1: 'yes'\)"),
    Case("no box", removes(*BOX, key="bbox"), r"four numbers: 1 \(annotation 1: None\)"),
    Case("box of three numbers", sets(*BOX, bbox=[1, 2, 3]), r"four numbers: 1 .*\[1, 2, 3\]"),
    Case("box with NaN", sets(*BOX, bbox=[1, NAN, 3, 4]), r"annotation 1: \[1, nan, 3, 4\]"),
    Case("infinite box", sets(*BOX, bbox=[1, 2, INFINITY, 4]), r"annotation 1: \[1, 2, inf, 4\]"),
    Case("box of text", sets(*BOX, bbox=["1", "2", "3", "4"]), r"no numbers: 1 \(annotation 1"),
    Case("negative width", sets(*BOX, bbox=[10, 10, -4, 5]), r"negative .* \[10, 10, -4, 5\]"),
    Case("box outside of the image", sets(*BOX, bbox=[40, 2, 5, 5]), r"\[40, 2, 5, 5\] in 24 × 32"),
    Case(
        "all boxes of size 0",
        lambda d: [annotation.update(bbox=[2, 2, 0, 0]) for annotation in d["annotations"]],
        "no box has an area",
    ),
    Case("polygon of two points", sets(*BOX, segmentation=[[1, 1, 5, 5]]), "less than three"),
    Case("odd polygon", sets(*BOX, segmentation=[[1, 1, 5, 5, 1, 5, 2]]), "odd number of coord"),
    Case("polygon with NaN", sets(*BOX, segmentation=[[1, 1, 5, NAN, 1, 5]]), "polygon with NaN"),
    Case(
        "polygon that is not in a list",
        sets(*BOX, segmentation=[1, 1, 5, 1, 1, 5]),
        r"not a list of numbers: 1 \(annotation 1\)",
    ),
    Case("mask of text", sets(*BOX, segmentation="mask.png"), "neither polygons nor run-length"),
    Case("other run lengths", sets(*BOX, segmentation={**RLE, "size": [32, 24]}), "another size"),
    Case("few run lengths", sets(*BOX, segmentation={**RLE, "counts": [100, 10]}), "not fill"),
    Case("negative run", sets(*BOX, segmentation={**RLE, "counts": [-5, 773]}), "not fill"),
    Case("lying run lengths", sets(*BOX, segmentation={**RLE, "counts": "ooooo0"}), "not fill"),
    Case("damaged run lengths", sets(*BOX, segmentation={**RLE, "counts": "oé~"}), "not fill"),
    Case("some without a mask", sets("annotations", 1, segmentation=[]), r"\(annotation 2\)"),
    Case("image missing", sets(*IMAGE, file_name="nowhere.png"), r"missing: 1 \('nowhere.png'\)"),
    Case("image that is none", sets(*IMAGE, file_name="text.png"), r"text.png' is not an image"),
    Case("another size", sets(*IMAGE, height=25), r"'a.png' is 24 × 32 and not 25 × 32"),
    Case(
        "size before the EXIF orientation",
        sets(*IMAGE, file_name="turned.png"),
        r"'turned.png' is 32 × 24 and not 24 × 32, perhaps because its EXIF orientation",
    ),
    Case("no size", removes(*IMAGE, key="height"), r"'a.png': None × 32"),
    Case("size of zero", sets(*IMAGE, width=0, height=0), r"'a.png': 0 × 0"),
    Case("no file name", removes(*IMAGE, key="file_name"), r"outside of the folder .*\(None\)"),
]

# Paths that would lead out of the folder of images.
ESCAPES = [
    Case("absolute path", sets(*IMAGE, file_name="/etc/hostname"), "'/etc/hostname'"),
    Case("parent folder", sets(*IMAGE, file_name="../secret.png"), "'../secret.png'"),
    Case("parent in between", sets(*IMAGE, file_name="a/../../b.png"), "'a/../../b.png'"),
    Case("Windows parent", sets(*IMAGE, file_name="a\\..\\b.png"), re.escape(repr("a\\..\\b.png"))),
    Case("Windows drive", sets(*IMAGE, file_name="C:\\b.png"), re.escape(repr("C:\\b.png"))),
    Case("empty name", sets(*IMAGE, file_name=""), "''"),
    Case("NUL in the name", sets(*IMAGE, file_name="a.png\0.jpg"), r"'a.png\\x00.jpg'"),
]

WARNINGS = [
    Case(
        "box that leaves the image", sets(*BOX, bbox=[20, 2, 20, 5]), r"\[20, 2, 20, 5\] in 24 × 32"
    ),
    Case("box without area", sets(*BOX, bbox=[2, 2, 0, 5]), r"without area: 1 .*\[2, 2, 0, 5\]"),
    Case(
        "normalised box",
        sets(*BOX, bbox=[0.1, 0.2, 0.5, 0.25]),
        r"normalised to 0…1: 1 \(annotation 1: \[0.1, 0.2, 0.5, 0.25\] in 24 × 32\)",
    ),
    Case(
        "corners of the box",
        lambda dataset: [each.update(bbox=[10, 5, 30, 20]) for each in dataset["annotations"]],
        r"x0, y0, x1, y1.*: \d \(annotation 1: \[10, 5, 30, 20\] in 24 × 32",
    ),
    Case("area of 0", sets(*BOX, area=0), r"'area' .*: 1 \(annotation 1: 0\)"),
    Case("negative area", sets(*BOX, area=-4.5), r"'area' .*: 1 \(annotation 1: -4.5\)"),
    Case("area that is a string", sets(*BOX, area="9"), r"'area' .*: 1 \(annotation 1: '9'\)"),
    Case(
        "object annotated twice",
        lambda dataset: dataset["annotations"].append({**dataset["annotations"][0], "id": 7}),
        r"more than once: 1 \(annotation 7: \[2, 2, 10, 10\]\)",
    ),
    Case(
        "polygon that leaves the image",
        sets(*BOX, segmentation=[[2, 2, 40, 2, 2, 12]]),
        r"polygon that leaves its image: 1 \(annotation 1: x 2 to 40, y 2 to 12 in 24 × 32\)",
    ),
    Case(
        "polygon outside of its box",
        sets(*BOX, segmentation=[[20, 12, 30, 12, 30, 20]]),
        r"polygon outside of its box: 1 .*x 20 to 30, y 12 to 20, box \[2, 2, 10, 10\]",
    ),
    Case(
        "class without objects", adds("categories", id=9, name="rivet"), r"objects: 1 \('rivet'\)"
    ),
    Case("crowd", sets(*BOX, iscrowd=1), r"crowd \('iscrowd': 1\): 1 \(annotation 1\)"),
    Case(
        "too many objects to train on",
        lambda dataset: dataset["annotations"].extend(
            {**dataset["annotations"][0], "id": number} for number in range(3, MAX_OBJECTS + 2)
        ),
        r"more than 5000 objects: 1 \(image 1: 5001\)",
    ),
    Case("image listed twice", adds("images", id=2), r"more than once: 1 \('a.png'\)"),
]

SAMPLES = [
    Case(
        "another size than annotated",
        lambda record: record.update(height=20),
        r"is 24 × 32 but annotated as 20 × 32",
    ),
    Case(
        "size before the EXIF orientation",
        lambda record: record.update(height=32, width=24),
        r"24 × 32 but annotated as 32 × 24 .*EXIF orientation",
    ),
    Case(
        "box with NaN",
        lambda record: record["annotations"][0].update(bbox=[1, NAN, 2, 3]),
        "annotation 1 .*box with NaN",
    ),
    Case(
        "polygon with an odd number",
        lambda record: record["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1, 5, 2]]),
        "annotation 1 .*odd number of coordinates",
    ),
    Case(
        "object without a mask",
        lambda record: record["annotations"][1].pop("segmentation"),
        "annotation 2 .*box but no mask.*use_instance_mask=False",
    ),
    Case(
        "run-length encoded mask without a bitmap",
        lambda record: record["annotations"][0].update(
            segmentation={"size": [24, 32], "counts": [100, 40, 628]}
        ),
        "annotation 1 .*run-length encoded mask.*instance_mask_format=bitmask",
    ),
    Case(
        "label map missing",
        lambda record: record.update(sem_seg_file_name="labels.png"),
        "there is no image 'labels.png'",
    ),
    Case(
        "label map in colours",
        lambda record: record.update(sem_seg_file_name=record["file_name"]),
        "label map .*'RGB'",
    ),
    Case(
        "label map of another size",
        lambda record: record.update(
            sem_seg_file_name=str(Path(record["file_name"]).with_name("labels.png"))
        ),
        "labels.png' is 5 × 5 .*is 24 × 32",
    ),
]

# All of them, to be counted.
CASES = [*IMAGES, *FILES, *ERRORS, *ESCAPES, *WARNINGS, *SAMPLES]


def table(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def assert_is_one_sentence(text):
    assert "\n" not in text
    assert "Traceback" not in text
    assert not text.endswith(".")


def assert_names(kind, says, path, function, argument):
    """Calling the function raises this error, in one sentence that names the path."""
    with pytest.raises(kind, match=says) as raised:
        function(argument)
    assert_is_one_sentence(str(raised.value))
    assert str(path) in str(raised.value)


@pytest.fixture
def folder(tmp_path):
    """Images: a.png, b.png, one that is turned, and a file of notes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded("PNG"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (folder / "turned.png").write_bytes(encoded("PNG", exif=exif))
    (folder / "text.png").write_text("text")
    (folder / "labels.png").write_bytes(encoded("PNG", np.zeros((5, 5), np.uint8)))
    return folder


@pytest.fixture
def dataset():
    """Two objects in one image, with nothing wrong about them."""
    triangle = [[2, 2, 12, 2, 2, 12]]
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 7, "name": "nut"}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "bbox": [2, 2, 10, 10],
                "segmentation": copy.deepcopy(triangle),
                "iscrowd": 0,
            }
            for number, category in ((1, 3), (2, 7))
        ],
    }


@table(IMAGES)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_images(case, tmp_path):
    path = tmp_path / "image.jpg"
    case.make(path)
    assert_names(ImageError, case.says, path, read_image, path)


@table(FILES)
def test_files_of_annotations(case, tmp_path):
    path = tmp_path / "annotations.json"
    case.make(path)
    assert_names(DatasetError, case.says, path, read_coco, path)


def test_a_dataset_without_issues(dataset, folder):
    assert find_issues(CocoDataset.from_dict(dataset), folder, need_masks=True) == []


@table(ERRORS)
def test_errors_in_annotations(case, dataset, folder):
    case.make(dataset)
    with pytest.raises(DatasetError, match=r"^the dataset 'own.json' cannot be used") as raised:
        check_dataset(CocoDataset.from_dict(dataset, "own.json"), folder, need_masks=True)
    assert re.search(rf"(?m)^  error: .*{case.says}", str(raised.value))
    for line in str(raised.value).splitlines():
        assert_is_one_sentence(line)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_anything_in_place_of_a_value_is_an_issue_or_none(key, dataset, folder):
    """Of whatever kind it is, checking goes on to the end, and so do the statistics."""
    values = [None, "", "x", True, -1, 0.5, 1e300, 10**400, NAN, [], {}, [[]], [[[]]], [None] * 4]
    for field in dataset[key][0]:
        for value in [*values, {"counts": "~"}, {"size": None, "counts": [None]}]:
            spoilt = copy.deepcopy(dataset)
            spoilt[key][0][field] = value
            spoilt = CocoDataset.from_dict(spoilt)
            for issue in find_issues(spoilt, folder, need_masks=True):
                assert_is_one_sentence(str(issue))
            assert str(count(spoilt))


def test_issues_of_a_kind_are_counted_and_the_first_are_shown(dataset):
    dataset["annotations"] = [
        {**dataset["annotations"][0], "id": number, "image_id": 5} for number in range(10_000)
    ]
    first, second = find_issues(CocoDataset.from_dict(dataset), None)
    assert first.severity == "error"
    assert (first.count, len(first.examples)) == (10_000, 3)
    assert "annotation 2: image 5, …" in str(first)
    assert (second.severity, second.count, second.examples) == ("warning", 1, ["'nut'"])


@table(WARNINGS)
def test_warnings_about_annotations(case, dataset, folder, caplog):
    case.make(dataset)
    check_dataset(CocoDataset.from_dict(dataset, "own.json"), folder, need_masks=True)
    assert "About the dataset 'own.json':\n  warning: " in caplog.text
    assert re.search(case.says, caplog.text)


@table(ESCAPES)
def test_paths_that_leave_the_folder(case, dataset, folder, tmp_path):
    case.make(dataset)
    with pytest.raises(DatasetError, match="image outside of the folder of images: 1") as raised:
        check_dataset(CocoDataset.from_dict(dataset), folder)
    assert re.search(case.says, str(raised.value))
    # Nor does loading without a check read such a file.
    (tmp_path / "own.json").write_text(json.dumps(dataset))
    with pytest.raises(DatasetError, match=case.says):
        load_coco_records(tmp_path / "own.json", folder)


@table(SAMPLES)
def test_samples_for_training(case, dataset, folder):
    (record,) = CocoDataset.from_dict(dataset).records(folder)
    case.make(record)
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    assert_names(ImageError, case.says, "", mapper, record)
