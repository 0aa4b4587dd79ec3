"""Datasets in YOLO's, Pascal VOC's and LabelMe's format, and folders in COCO's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mvit_det.data import generate_shapes
from mvit_det.data.coco import CocoDataset, read_coco
from mvit_det.data.formats import read_dataset, write_coco
from mvit_det.data.validation import find_issues
from mvit_det.errors import ConfigError, DatasetError
from tests.data.conftest import decode


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Content and image folder of ten generated images, one of them without objects."""
    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    content = generate_shapes(folder, 10, (64, 80), seed=3, crowd_fraction=0.3)
    empty = content["images"][4]["id"]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != empty]
    return content, folder / "images"


@pytest.fixture(scope="module")
def real(coco_sample):
    """Content and image folder of eight images of COCO with polygons and crowds."""
    path = coco_sample / "coco" / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    crowds = {each["image_id"] for each in content["annotations"] if each["iscrowd"]}
    images = sorted(content["images"], key=lambda image: image["id"] not in crowds)[:8]
    kept = {image["id"] for image in images}
    annotations = [each for each in content["annotations"] if each["image_id"] in kept]
    used = {each["category_id"] for each in annotations}
    categories = [each for each in content["categories"] if each["id"] in used]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return content, coco_sample / "coco" / "val2017"


def objects(content):
    """Annotations by file name, with class names, in their order."""
    names = {each["id"]: each["name"] for each in content["categories"]}
    files = {each["id"]: each["file_name"].rpartition("/")[2] for each in content["images"]}
    found = {file: [] for file in files.values()}
    for each in content["annotations"]:
        found[files[each["image_id"]]].append((names[each["category_id"]], each))
    return found


@pytest.mark.parametrize("source", ["shapes", "real"])
@pytest.mark.parametrize("kind", ["YOLO", "Pascal VOC", "LabelMe"])
def test_there_and_back(kind, source, writers, tmp_path, request):
    content, images = request.getfixturevalue(source)
    dataset = read_dataset(writers[kind](content, images, tmp_path / "dataset"))
    assert dataset.kind == kind
    assert list(dataset.splits) == ["train"]
    split = dataset.splits["train"]
    before, after = objects(content), objects(split.content)
    assert after.keys() == before.keys()
    for file, expected in before.items():
        assert [name for name, _ in after[file]] == [name for name, _ in expected], file
        for (_, old), (_, new) in zip(expected, after[file]):
            size = next(i for i in content["images"] if i["id"] == old["image_id"])
            if kind == "Pascal VOC":
                assert new["bbox"] == pytest.approx(old["bbox"], abs=1e-9)
                assert new["iscrowd"] == old["iscrowd"]
            elif kind == "YOLO" and isinstance(old["segmentation"], list):
                # Six digits of a side of at most 640 pixels.
                assert np.allclose(new["segmentation"][0], old["segmentation"][0], atol=4e-4)
            elif kind == "YOLO":
                assert new["bbox"] == pytest.approx(old["bbox"], abs=1e-3)
            elif isinstance(old["segmentation"], list):
                assert new["segmentation"] == old["segmentation"]
            else:
                mask = mask_util.decode(new["segmentation"])
                assert np.array_equal(mask, decode(old["segmentation"], size))
    normalized = CocoDataset.from_dict(split.content)
    issues = find_issues(normalized, split.folder)
    # YOLO and VOC have no masks of crowds.
    assert [each for each in issues if each.severity == "error"] == []


def test_boxes_alone_have_no_masks(shapes, writers, tmp_path):
    folder = writers["YOLO"](*shapes, tmp_path / "yolo", masks=False)
    split = read_dataset(folder / "data.yaml").splits["train"]
    assert not CocoDataset.from_dict(split.content).has_masks
    assert [each["area"] for each in split.content["annotations"]] == pytest.approx(
        [each["bbox"][2] * each["bbox"][3] for each in split.content["annotations"]]
    )


@pytest.mark.parametrize("layout", ["list", "dict", "absolute", "relative", "roboflow", "txt"])
def test_layouts_of_yolo(layout, shapes, writers, tmp_path):
    folder = writers["YOLO"](*shapes, tmp_path / "yolo")
    writers["YOLO"](*shapes, folder, split="valid")
    names = [each["name"] for each in shapes[0]["categories"]]
    lines = {"train": "train: images/train", "val": "val: images/valid"}
    lines["names"] = f"names: {json.dumps(names)}"
    if layout == "dict":
        lines["names"] = "names:\n" + "".join(f"  {n}: {x}\n" for n, x in enumerate(names))
    elif layout == "absolute":
        lines["path"] = f"path: {folder}"
    elif layout == "relative":
        lines.update(path="path: images", train="train: [train]", val="val: valid")
    elif layout == "roboflow":
        lines.update(train="train: ../images/train", val="val: ../images/valid", nc="nc: 5")
    elif layout == "txt":
        files = sorted((folder / "images" / "train").iterdir())
        listed = [f"./images/train/{path.name}" for path in files]
        (folder / "train.txt").write_text("\n".join(listed) + "\n")
        lines["train"] = "train: train.txt"
    (folder / "data.yaml").write_text("\n".join(lines.values()) + "\n")
    splits = read_dataset(folder).splits
    assert list(splits) == ["train", "val"]
    assert [len(each.content["images"]) for each in splits.values()] == [10, 10]
    assert len(splits["train"].content["annotations"]) == len(shapes[0]["annotations"])
    assert [each["name"] for each in splits["val"].content["categories"]] == names


BAD_LINES = [
    ("0 0.5 0.5 0.5", "4 numbers"),
    ("0 0.5 0.5 0.5 0.5 0.9", "6 numbers"),
    ("9 0.5 0.5 0.5 0.5", "no class 9"),
    ("0.5 0.5 0.5 0.5 0.5", "no class 0.5"),
    ("0 0.5 0.5 32 24", "32 lies outside"),
    ("0 nan 0.5 0.5 0.5", "nan lies outside"),
    ("0 0,5 0.5 0.5 0.5", "'0 0,5 0.5 0.5 0.5'"),
]


@pytest.mark.parametrize(("line", "named"), BAD_LINES)
def test_bad_lines_are_named_with_file_and_number(line, named, shapes, writers, tmp_path):
    folder = writers["YOLO"](*shapes, tmp_path / "yolo")
    path = sorted((folder / "labels" / "train").iterdir())[1]
    count = len(path.read_text().splitlines())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DatasetError) as raised:
        read_dataset(folder)
    message = str(raised.value)
    assert f"'{path}', line {count + 1}: " in message
    assert named in message
    assert "\n" not in message


def break_yolo_image(folder):
    path = sorted((folder / "images" / "train").iterdir())[0]
    path.unlink()
    return folder / "labels" / "train" / f"{path.stem}.txt"


def break_yolo_names(folder):
    path = folder / "data.yaml"
    path.write_text(path.read_text() + "nc: 3\n")
    return "nc: 3"


def break_yolo_folder(folder):
    (folder / "data.yaml").write_text("names: [a]\ntrain: nowhere\n")
    return folder / "nowhere"


def break_yolo_yaml(folder):
    path = folder / "data.yaml"
    path.write_text("names: [a\n" + path.read_text())
    return path


def break_voc_size(folder):
    path = sorted((folder / "Annotations").iterdir())[0]
    path.write_text(path.read_text().replace("size>", "sighs>"))
    return path


def break_voc_number(folder):
    path = sorted((folder / "Annotations").iterdir())[0]
    path.write_text(path.read_text().replace("<xmin>", "<xmin>a"))
    return "'a"


def break_voc_xml(folder):
    path = sorted((folder / "Annotations").iterdir())[0]
    path.write_text(path.read_text()[:-5])
    return "line 1"


def break_voc_image(folder):
    path = sorted((folder / "JPEGImages").iterdir())[0]
    path.unlink()
    return path.name


def break_labelme_image(folder):
    path = sorted(folder.glob("*.png"))[0]
    path.unlink()
    return path


def break_labelme_points(folder):
    path = sorted(folder.glob("*.json"))[0]
    content = json.loads(path.read_text())
    content["shapes"].append({"label": "x", "points": [[1, 2], [3, 4]]})
    path.write_text(json.dumps(content))
    return "[[1, 2], [3, 4]]"


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        ("YOLO", break_yolo_image),
        ("YOLO", break_yolo_names),
        ("YOLO", break_yolo_folder),
        ("YOLO", break_yolo_yaml),
        ("Pascal VOC", break_voc_size),
        ("Pascal VOC", break_voc_number),
        ("Pascal VOC", break_voc_xml),
        ("Pascal VOC", break_voc_image),
        ("LabelMe", break_labelme_image),
        ("LabelMe", break_labelme_points),
    ],
)
def test_bad_files_are_named(kind, break_it, shapes, writers, tmp_path):
    folder = writers[kind](*shapes, tmp_path / "dataset")
    named = break_it(folder)
    with pytest.raises(DatasetError) as raised:
        read_dataset(folder)
    assert str(named) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lists_of_voc_and_coordinates_from_0(shapes, writers, tmp_path):
    folder = writers["Pascal VOC"](*shapes, tmp_path / "voc")
    files = sorted(path.stem for path in (folder / "Annotations").iterdir())
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(files[:7]))
    (lists / "val.txt").write_text("\n".join(files[7:]))
    path = folder / "Annotations" / f"{files[0]}.xml"
    box = "<bndbox><xmin>0</xmin><ymin>2</ymin><xmax>9</xmax><ymax>5</ymax></bndbox>"
    added = f"<object><name>zero</name>{box}</object></annotation>"
    path.write_text(path.read_text().replace("</annotation>", added))
    dataset = read_dataset(folder)
    assert {key: len(each.content["images"]) for key, each in dataset.splits.items()} == {
        "train": 7,
        "val": 3,
    }
    content = dataset.splits["train"].content
    zero = next(each["id"] for each in content["categories"] if each["name"] == "zero")
    boxes = [each["bbox"] for each in content["annotations"] if each["category_id"] == zero]
    assert boxes == [[0, 2, 9, 3]]
    assert any("less than 1" in note for note in dataset.notes)


def test_shapes_of_labelme(shapes, tmp_path):
    _, images = shapes
    name = sorted(images.iterdir())[0].name
    shutil.copy(images / name, tmp_path)
    drawn = [
        {"label": "r", "shape_type": "rectangle", "points": [[10, 20], [4, 6]]},
        {"label": "c", "shape_type": "circle", "points": [[20, 20], [20, 30]]},
        {"label": "p", "shape_type": "point", "points": [[1, 1]]},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"shapes": drawn, "imagePath": f".\\{name}"}))
    dataset = read_dataset(tmp_path)
    circle, rectangle = sorted(
        dataset.splits["train"].content["annotations"], key=lambda each: -each["area"]
    )
    assert rectangle["bbox"] == [4, 6, 6, 14]
    assert rectangle["area"] == 84
    assert circle["bbox"] == pytest.approx([10, 10, 20, 20])
    assert circle["area"] == pytest.approx(np.pi * 100, rel=0.01)
    assert dataset.notes == ("1 shapes of type 'point' are skipped",)


@pytest.mark.parametrize("layout", ["coco", "roboflow", "flat", "one file"])
def test_folders_in_cocos_format(layout, shapes, tmp_path):
    content, images = shapes
    folders = {
        "coco": ("annotations/instances_{}2017.json", "{}2017"),
        "roboflow": ("{}/_annotations.coco.json", "{}"),
        "flat": ("{}.json", "images"),
        "one file": ("annotations.json", "images"),
    }
    file, folder = folders[layout]
    for split in ("train", "val"):
        path = tmp_path / file.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        shutil.copytree(images, tmp_path / folder.format(split), dirs_exist_ok=True)
    dataset = read_dataset(tmp_path)
    assert dataset.kind == "COCO"
    assert list(dataset.splits) == (["train"] if layout == "one file" else ["train", "val"])
    for name, split in dataset.splits.items():
        assert split.folder == tmp_path / folder.format(name)
        assert split.file == tmp_path / file.format(name)


def test_files_in_cocos_format_are_read_once(shapes, tmp_path, monkeypatch):
    content, images = shapes
    shutil.copytree(images, tmp_path / "images")
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    read, read_bytes = [], Path.read_bytes

    def count(path):
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    dataset = read_dataset(tmp_path)
    for split in dataset.splits.values():
        assert read_coco(split.file).images == content["images"]
    assert sorted(read) == ["train.json", "val.json"]


def test_a_validation_split_is_made_by_seed(shapes, writers, tmp_path):
    folder = writers["YOLO"](*shapes, tmp_path / "yolo")
    dataset = read_dataset(folder)
    first, again = dataset.with_validation(0.3), read_dataset(folder).with_validation(0.3)
    assert first.splits == again.splits
    names = {
        key: {each["file_name"] for each in split.content["images"]}
        for key, split in first.splits.items()
    }
    assert [len(each) for each in names.values()] == [7, 3]
    assert not names["train"] & names["val"]
    images = {each["id"] for each in first.splits["val"].content["images"]}
    assert {each["image_id"] for each in first.splits["val"].content["annotations"]} <= images
    other = dataset.with_validation(0.3, seed=1).splits["val"].content["images"]
    assert {each["file_name"] for each in other} != names["val"]
    assert len(dataset.with_validation(0.01).splits["val"].content["images"]) == 1
    assert any("3 of 10" in note and "seed 0" in note for note in first.notes)
    with pytest.raises(ConfigError, match=r"1\.5"):
        dataset.with_validation(1.5)
    assert first.with_validation() is first


def test_written_files_are_read_back(shapes, writers, tmp_path):
    dataset = read_dataset(writers["LabelMe"](*shapes, tmp_path / "labelme")).with_validation()
    files = write_coco(dataset, tmp_path / "out")
    assert {key: json.loads(path.read_text()) for key, path in files.items()} == {
        key: split.content for key, split in dataset.splits.items()
    }
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train.json", "val.json"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_unknown_folders_are_named(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=name):
        read_dataset(tmp_path / name)


@pytest.mark.parametrize("content", [b"a: [b\n", b"\xff\xfe\x00", b"- a\n- b: {\n"])
def test_a_foreign_yaml_that_cannot_be_read_does_not_hide_coco(content, shapes, tmp_path):
    coco, images = shapes
    folder = tmp_path / "coco"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(coco))
    shutil.copytree(images, folder / "images")
    (folder / "notes.yaml").write_bytes(content)
    dataset = read_dataset(folder)
    assert dataset.kind == "COCO"
    assert dataset.splits["train"].content["images"] == coco["images"]
