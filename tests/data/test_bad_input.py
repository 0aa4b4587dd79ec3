"""Bad input gets a sentence that says what is wrong, where, and what to do.

The tables below have a row per case: what it is called, how the input is made, and what is said.
"""

import copy
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
from mvit_det.data.annotations import MOST_OBJECTS
from mvit_det.data.coco_json import load_coco_json, read_coco_json
from mvit_det.data.images import read_image
from mvit_det.data.validation import check_dataset, find_issues
from mvit_det.errors import DatasetError, ImageError


@dataclass(frozen=True)
class Case:
    """One way in which input can be bad.

    `make` gets a path to write to (images and files), or a dataset to spoil (JSON), or a record
    to spoil (samples). `says` is a part of the sentence, where {path} is the path that was written.
    """

    name: str
    make: Callable[[Any], object]
    says: str


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(image_format, pixels=PIXELS, **options):
    """The bytes of an image."""
    import io

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


ANEW = "; get it anew or leave it out"
IMAGES = [
    Case(
        "missing",
        lambda path: None,
        "there is no image '{path}'; check its name and the folder of images",
    ),
    Case("folder", Path.mkdir, "'{path}' is a folder and not an image; name a file"),
    Case("zero bytes", Path.touch, "the image '{path}' is empty" + ANEW),
    Case(
        "JPEG cut short",
        writes(encoded("JPEG")[:-200]),
        r"the image '{path}' is cut short or damaged \(.*\)" + ANEW,
    ),
    Case(
        "PNG cut short",
        writes(encoded("PNG")[:-600]),
        r"the image '{path}' is cut short or damaged \(.*\)" + ANEW,
    ),
    Case(
        "WebP cut short",
        writes(encoded("WEBP")[:-100]),
        r"the image '{path}' is cut short or damaged( \(.*\))?" + ANEW,
    ),
    Case(
        "JPEG of its first bytes",
        writes(encoded("JPEG")[:10]),
        r"the image '{path}' is cut short or damaged \(.*\)" + ANEW,
    ),
    Case(
        "PNG with damaged pixels",
        writes(flipped_in_the_middle(encoded("PNG"))),
        r"the image '{path}' is cut short or damaged \(.*\)" + ANEW,
    ),
    Case(
        "web page",
        writes(b"\n<!DOCTYPE html><html>404</html>"),
        "'{path}' is a web page or a drawing and not an image" + ANEW,
    ),
    Case(
        "text",
        writes(b"not an image\n"),
        "'{path}' is no image of a known format; convert it to PNG or JPEG or leave it out",
    ),
    Case(
        "random bytes",
        writes(np.random.default_rng(1).bytes(4000)),
        "'{path}' is no image of a known format; convert it to PNG or JPEG or leave it out",
    ),
    Case(
        "PostScript, which would run a program",
        writes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"),
        "'{path}' is no image of a known format; convert it to PNG or JPEG or leave it out",
    ),
    Case(
        "pointer of Git LFS",
        writes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "'{path}' only points to an image kept by Git LFS; get the image with 'git lfs pull'",
    ),
    Case(
        "decompression bomb",
        writes(png_of_size(60_000, 60_000)),
        "the image '{path}' has more than 179 million pixels, too many to read safely; scale it "
        "down or leave it out",
    ),
    Case(
        "floating point",
        writes(encoded("TIFF", np.ones((4, 4), np.float32))),
        "the image '{path}' has floating-point pixels, whose range is not known; save it as PNG "
        "or JPEG of 8 bits",
    ),
    Case(
        "32 bits",
        writes(encoded("TIFF", np.array([[-1, 70000]], np.int32))),
        "the image '{path}' has pixels of 32 bits, from -1 to 70000, whose range is not known; "
        "save it as PNG or JPEG of 8 bits",
    ),
]

FILES = [
    Case(
        "missing",
        lambda path: None,
        "there is no file of annotations '{path}'; check its name",
    ),
    Case("folder", Path.mkdir, "the annotations '{path}' cannot be read"),
    Case("empty", Path.touch, "the annotations '{path}' are empty; export or copy them anew"),
    Case(
        "cut short",
        writes(b'{"images": [{"id": 1, "file_name": "a.j'),
        "the annotations '{path}' are cut short; export or copy them anew",
    ),
    Case(
        "cut short between values",
        writes(b'{"images": [{"id": 1},'),
        "the annotations '{path}' are cut short; export or copy them anew",
    ),
    Case(
        "not JSON",
        writes(b"<annotation>\n<folder>x</folder>\n</annotation>"),
        r"'{path}' is not JSON \(line 1, column 1: .*\); mend it or export it anew",
    ),
    Case(
        "comma too many",
        writes(b'{"images": [],\n "annotations": [1,],\n "categories": []}'),
        r"'{path}' is not JSON \(line 2, column \d+: .*\); mend it or export it anew",
    ),
    Case(
        "binary",
        writes(b"\x80\x02}q\x00\xff\xfe"),
        "'{path}' is not JSON: it is not text in UTF-8; name the JSON file of annotations",
    ),
    Case(
        "endless brackets",
        writes(b"[" * 200_000),
        "'{path}' is no file of annotations in COCO's format|are cut short",
    ),
    Case(
        "number of 5000 digits",
        writes(b"1" * 5000),
        "'{path}' is no file of annotations in COCO's format",
    ),
    Case(
        "list",
        writes(b'[{"image_id": 1}]'),
        "'{path}' holds a list and not an object with the lists images, annotations and categories",
    ),
    Case("number", writes(b"1"), "'{path}' holds a single value and not an object"),
    Case(
        "key missing",
        writes(b'{"images": [], "annotations": []}'),
        "'categories' is missing in '{path}'; export it in COCO's format for detection",
    ),
    Case(
        "object instead of list",
        writes(b'{"images": {}, "annotations": [], "categories": []}'),
        "'images' is not a list in '{path}'",
    ),
    Case(
        "list of numbers",
        writes(b'{"images": [], "annotations": [1], "categories": []}'),
        "'annotations' in '{path}' has items that are not objects; export it in COCO's format",
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
BOX, RLE = ("annotations", 0), {"size": [24, 32], "counts": [100, 10, 658]}
ERRORS = [
    Case("no images", lambda d: d["images"].clear(), r"no image is listed: 1 .*list the images"),
    Case(
        "no annotations",
        lambda d: d["annotations"].clear(),
        r"no object is annotated: 1 \('annotations' is empty\); annotate some",
    ),
    Case(
        "no categories",
        lambda d: d["categories"].clear(),
        r"no category is named: 1 \('categories' is empty\); name the classes",
    ),
    Case(
        "unknown category",
        sets(*BOX, category_id=9),
        r"object of an unknown category: 1 \(annotation 1: category 9\); add the category or",
    ),
    Case(
        "no category",
        removes(*BOX, key="category_id"),
        r"object of an unknown category: 1 \(annotation 1: category None\)",
    ),
    Case(
        "unknown image",
        sets(*BOX, image_id=77),
        r"object in an unknown image: 1 \(annotation 1: image 77\); add the image or remove the",
    ),
    Case(
        "image id twice",
        adds("images", file_name="b.png"),
        r"id of more than one image: 1 \(1\); number them anew",
    ),
    Case(
        "annotation id twice",
        adds("annotations"),
        r"id of more than one annotation: 1 \(1\); number them anew",
    ),
    Case(
        "category id twice",
        adds("categories", name="other"),
        r"id of more than one category: 1 \(3\); number them anew",
    ),
    Case(
        "category name twice",
        adds("categories", id=8),
        r"name of more than one category: 1 \('bolt'\); join or rename them",
    ),
    Case(
        "category without a name",
        removes("categories", 0, key="name"),
        r"category without a name: 1 \(category 3\); name it",
    ),
    Case(
        "annotation without an id",
        removes(*BOX, key="id"),
        r"annotation whose 'id' is missing or not an integer: 1 \(number 0 of the list: None\)",
    ),
    Case(
        "id as text",
        sets("images", 0, id="1"),
        r"image whose 'id' is missing or not an integer: 1 \(number 0 of the list: '1'\)",
    ),
    Case(
        "no box",
        removes(*BOX, key="bbox"),
        r"box that is not four numbers: 1 \(annotation 1: None\); write x, y, width, height in",
    ),
    Case("box of three numbers", sets(*BOX, bbox=[1, 2, 3]), r"box that is not four numbers: 1 \("),
    Case(
        "box with NaN",
        sets(*BOX, bbox=[1, NAN, 3, 4]),
        r"box with NaN, infinite or no numbers: 1 \(annotation 1: \[1, nan, 3, 4\]\)",
    ),
    Case(
        "infinite box",
        sets(*BOX, bbox=[1, 2, INFINITY, 4]),
        r"box with NaN, infinite or no numbers: 1 \(",
    ),
    Case(
        "box of text",
        sets(*BOX, bbox=["1", "2", "3", "4"]),
        r"box with NaN, infinite or no numbers: 1 \(",
    ),
    Case(
        "negative width",
        sets(*BOX, bbox=[10, 10, -4, 5]),
        r"box with a negative size: 1 \(annotation 1: \[10, 10, -4, 5\]\); write x, y, width,",
    ),
    Case(
        "box outside of the image",
        sets(*BOX, bbox=[40, 2, 5, 5]),
        r"box outside of its image: 1 \(annotation 1: \[40, 2, 5, 5\] in 24 × 32\); write x, y,",
    ),
    Case(
        "polygon of two points",
        sets(*BOX, segmentation=[[1, 1, 5, 5]]),
        r"polygon with less than three points: 1 \(annotation 1\); mend or remove it",
    ),
    Case(
        "polygon with an odd number",
        sets(*BOX, segmentation=[[1, 1, 5, 5, 1, 5, 2]]),
        r"polygon with an odd number of coordinates: 1 \(annotation 1\); mend or remove it",
    ),
    Case(
        "polygon with NaN",
        sets(*BOX, segmentation=[[1, 1, 5, NAN, 1, 5]]),
        r"polygon with NaN, infinite or no numbers: 1 \(annotation 1\); mend or remove it",
    ),
    Case(
        "polygon that is not in a list",
        sets(*BOX, segmentation=[1, 1, 5, 1, 1, 5]),
        r"polygon that is not a list of numbers: 1 \(annotation 1\); mend or remove it",
    ),
    Case(
        "mask of text",
        sets(*BOX, segmentation="mask.png"),
        r"mask that is neither polygons nor run-length encoding: 1 \(annotation 1\)",
    ),
    Case(
        "run lengths of another size",
        sets(*BOX, segmentation={**RLE, "size": [32, 24]}),
        r"run-length encoding of another size than the image's: 1 \(annotation 1\)",
    ),
    Case(
        "run lengths that do not fill the image",
        sets(*BOX, segmentation={**RLE, "counts": [100, 10]}),
        r"run-length encoding that does not fill the image: 1 \(annotation 1\)",
    ),
    Case(
        "compressed run lengths that lie",
        sets(*BOX, segmentation={**RLE, "counts": "ooooo0"}),
        r"run-length encoding that does not fill the image: 1 \(annotation 1\)",
    ),
    Case(
        "some objects without a mask",
        sets("annotations", 1, segmentation=[]),
        r"object without a mask where others have one: 1 \(annotation 2\); add its mask, or train",
    ),
    Case(
        "image missing",
        sets("images", 0, file_name="nowhere.png"),
        r"image that is missing: 1 \('nowhere.png'\); check the folder '.*', or remove its entry",
    ),
    Case(
        "image that is none",
        sets("images", 0, file_name="text.png"),
        r"image that cannot be read: 1 \('.*text.png' is no image of a known format;",
    ),
    Case(
        "another size",
        sets("images", 0, height=25),
        r"image of another size than annotated \(height × width\): 1 \('a.png' is 24 × 32 and "
        r"not 25 × 32\); annotate the image as it is shown",
    ),
    Case(
        "size before the EXIF orientation",
        sets("images", 0, file_name="turned.png"),
        r"1 \('turned.png' is 32 × 24 and not 24 × 32, perhaps because its EXIF orientation",
    ),
    Case(
        "no size",
        removes("images", 0, key="height"),
        r"image whose 'height' or 'width' is not a positive integer: 1 \('a.png': None × 32\)",
    ),
    Case(
        "size of zero",
        sets("images", 0, width=0),
        r"image whose 'height' or 'width' is not a positive integer: 1 \('a.png': 24 × 0\)",
    ),
    Case(
        "no file name",
        removes("images", 0, key="file_name"),
        r"image outside of the folder of images: 1 \(None\); name images relative to the",
    ),
]

# Paths that would lead out of the folder of images.
ESCAPES = [
    Case("absolute path", sets("images", 0, file_name="/etc/hostname"), "'/etc/hostname'"),
    Case("parent folder", sets("images", 0, file_name="../secret.png"), "'../secret.png'"),
    Case("parent in between", sets("images", 0, file_name="a/../../b.png"), "'a/../../b.png'"),
    Case("empty name", sets("images", 0, file_name=""), "''"),
    Case("NUL in the name", sets("images", 0, file_name="a.png\0.jpg"), r"'a.png\\x00.jpg'"),
]

WARNINGS = [
    Case(
        "box that leaves the image",
        sets(*BOX, bbox=[20, 2, 20, 5]),
        r"box that leaves its image: 1 \(annotation 1: \[20, 2, 20, 5\] in 24 × 32\); it is "
        "clipped to the image",
    ),
    Case(
        "box without area",
        sets(*BOX, bbox=[2, 2, 0, 5]),
        r"box without area: 1 \(annotation 1: \[2, 2, 0, 5\]\); training leaves it out",
    ),
    Case(
        "class without objects",
        adds("categories", id=9, name="rivet"),
        r"category without objects: 1 \('rivet'\); it is not learned",
    ),
    Case(
        "crowd",
        sets(*BOX, iscrowd=1),
        r"crowd \('iscrowd': 1\): 1 \(annotation 1\); training leaves it out",
    ),
    Case(
        "too many objects to train on",
        lambda dataset: dataset["annotations"].extend(
            {**dataset["annotations"][0], "id": number} for number in range(3, MOST_OBJECTS + 2)
        ),
        r"image with more than 5000 objects: 1 \(image 1: 5001\); training takes no more of",
    ),
    Case(
        "image listed twice",
        adds("images", id=2),
        r"image that is listed more than once: 1 \('a.png'\); all are used",
    ),
]

SAMPLES = [
    Case(
        "another size than annotated",
        lambda record: record.update(height=20),
        r"the image '{path}' is 24 × 32 but annotated as 20 × 32 \(height × width\); annotate it",
    ),
    Case(
        "size before the EXIF orientation",
        lambda record: record.update(height=32, width=24),
        r"24 × 32 but annotated as 32 × 24 .*: perhaps without its EXIF orientation, which is "
        "applied here; annotate it as it is shown, or take the orientation out of the file",
    ),
    Case(
        "box with NaN",
        lambda record: record["annotations"][0].update(bbox=[1, NAN, 2, 3]),
        "annotation 1 of the image '{path}' has a box with NaN, infinite or no numbers; mend or",
    ),
    Case(
        "polygon with an odd number",
        lambda record: record["annotations"][0].update(segmentation=[[1, 1, 5, 5, 1, 5, 2]]),
        "annotation 1 of the image '{path}' has a polygon with an odd number of coordinates",
    ),
    Case(
        "object without a mask",
        lambda record: record["annotations"][1].pop("segmentation"),
        "annotation 2 of the image '{path}' has a box but no mask; add one, or set "
        "use_instance_mask=False for a model without a mask head",
    ),
    Case(
        "label map missing",
        lambda record: record.update(sem_seg_file_name="labels.png"),
        "there is no image 'labels.png'",
    ),
    Case(
        "label map in colours",
        lambda record: record.update(sem_seg_file_name=record["file_name"]),
        "the label map '{path}' has pixels of the kind 'RGB'; save it as PNG with one integer",
    ),
    Case(
        "label map of another size",
        lambda record: record.update(
            sem_seg_file_name=str(Path(record["file_name"]).with_name("labels.png"))
        ),
        r"the label map '.*labels.png' is 5 × 5 but its image '{path}' is 24 × 32 \(height × wid",
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


@pytest.fixture
def folder(tmp_path):
    """Images: a.png, b.png, one that is turned, and a text."""
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


def test_every_case_has_a_name_of_its_own():
    for cases in (IMAGES, FILES, ERRORS, ESCAPES, WARNINGS, SAMPLES):
        assert len({case.name for case in cases}) == len(cases)


@table(IMAGES)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_images(case, tmp_path):
    path = tmp_path / "image.jpg"
    case.make(path)
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert_is_one_sentence(str(raised.value))
    assert re.fullmatch(case.says.format(path=re.escape(str(path))), str(raised.value))


@table(FILES)
def test_files_of_annotations(case, tmp_path):
    path = tmp_path / "annotations.json"
    case.make(path)
    with pytest.raises(DatasetError) as raised:
        read_coco_json(path)
    assert_is_one_sentence(str(raised.value))
    assert re.search(case.says.format(path=re.escape(str(path))), str(raised.value))


def test_a_dataset_without_issues(dataset, folder):
    assert find_issues(dataset, folder, need_masks=True) == []


@table(ERRORS)
def test_errors_in_annotations(case, dataset, folder):
    case.make(dataset)
    # As the file would be read.
    dataset = json.loads(json.dumps(dataset))
    with pytest.raises(DatasetError) as raised:
        check_dataset(dataset, "own.json", folder, need_masks=True)
    title, *lines = str(raised.value).splitlines()
    assert title == "the dataset 'own.json' cannot be used as it is:"
    assert re.search(rf"(?m)^  error: .*{case.says}", str(raised.value))
    for line in lines:
        assert_is_one_sentence(line)


@pytest.mark.parametrize(
    "value",
    [None, "", "x", True, -1, 0.5, 10**400, NAN, [], {}, [[]], [None] * 4, {"counts": "~"}],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_anything_in_place_of_a_value_is_a_problem_or_none(key, value, dataset, folder):
    """Of whatever kind it is, checking goes on to the end."""
    for field in dataset[key][0]:
        spoilt = copy.deepcopy(dataset)
        spoilt[key][0][field] = value
        for problem in find_issues(spoilt, folder, need_masks=True):
            assert_is_one_sentence(str(problem))


def test_issues_of_a_kind_are_counted_and_the_first_are_shown(dataset):
    dataset["annotations"] = [
        {**dataset["annotations"][0], "id": number, "image_id": 5} for number in range(10_000)
    ]
    first, second = find_issues(dataset, None)
    assert str(first) == (
        "error: object in an unknown image: 10000 (annotation 0: image 5, annotation 1: image 5, "
        "annotation 2: image 5, …); add the image or remove the annotation"
    )
    assert str(second) == "warning: category without objects: 1 ('nut'); it is not learned"


@table(WARNINGS)
def test_warnings_about_annotations(case, dataset, folder, caplog):
    case.make(dataset)
    check_dataset(dataset, "own.json", folder, need_masks=True)
    assert "About the dataset 'own.json':\n  warning: " in caplog.text
    assert re.search(case.says, caplog.text)


@table(ESCAPES)
def test_paths_that_leave_the_folder(case, dataset, folder, tmp_path):
    case.make(dataset)
    with pytest.raises(DatasetError, match="image outside of the folder of images: 1") as raised:
        check_dataset(dataset, "own.json", folder)
    assert re.search(case.says, str(raised.value))
    # Nor does what loads it without having checked it.
    (tmp_path / "own.json").write_text(json.dumps(dataset))
    with pytest.raises(DatasetError, match=f"the image {case.says} does not lie in the folder"):
        load_coco_json(str(tmp_path / "own.json"), str(folder))


@table(SAMPLES)
def test_samples_for_training(case, dataset, folder, tmp_path):
    (tmp_path / "own.json").write_text(json.dumps(dataset))
    (record,) = load_coco_json(str(tmp_path / "own.json"), str(folder))
    case.make(record)
    mapper = DatasetMapper(
        is_train=True, augmentations=[], image_format="RGB", use_instance_mask=True
    )
    with pytest.raises(ImageError) as raised:
        mapper(record)
    assert_is_one_sentence(str(raised.value))
    path = re.escape(record["file_name"])
    assert re.search(case.says.format(path=path), str(raised.value))
