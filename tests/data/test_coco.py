"""The reader of annotation files: normalised values, read once, records equal to Detectron2's."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from pycocotools import mask as mask_util

from mvit_det.data import check_datasets, load_records
from mvit_det.data.catalog import forget_annotations, register_coco
from mvit_det.data.coco import CocoDataset, load_coco_records, read_coco
from mvit_det.data.validation import find_issues, segmentation_error
from mvit_det.errors import DatasetError
from mvit_det.evaluation import COCOEvaluator

TRIANGLE = [2, 2, 12, 2, 2, 12]


def content(**annotation):
    """A dataset of one image and two categories, with one object."""
    return {
        "images": [{"id": 4, "file_name": "a.png", "height": 24, "width": 32}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 90, "bbox": [2, 2, 10, 10], **annotation}
        ],
        "categories": [{"id": 90, "name": "nut"}, {"id": 2, "name": "bolt"}],
    }


def without_ids(records):
    records = copy.deepcopy(records)
    for record in records:
        for annotation in record["annotations"]:
            annotation.pop("id", None)
    return records


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_is_as_detectron2_loads_it_and_has_no_errors(split, coco_sample):
    json_file = coco_sample / "coco" / "annotations" / f"instances_{split}.json"
    folder = coco_sample / "coco" / split
    dataset = read_coco(json_file)
    assert {issue.severity for issue in find_issues(dataset, folder, need_masks=True)} <= {
        "warning"
    }
    records = dataset.records(folder)
    expected = load_coco_json(str(json_file), str(folder), f"coco_2017_{split[:-4]}")
    # Not one assertion, whose message would show all annotations.
    for record, other in zip(without_ids(records), expected, strict=True):
        assert record.keys() == other.keys()
        assert record == other, record["file_name"]


def test_generated_crowds_become_compressed_run_lengths(shapes_root):
    metadata = MetadataCatalog.get("shapes_val")
    records = DatasetCatalog.get("shapes_val")
    expected = load_coco_json(metadata.json_file, metadata.image_root)
    for record in expected:
        for annotation in record["annotations"]:
            annotation["category_id"] -= 1
    assert without_ids(records) == expected
    (issue,) = find_issues(read_coco(metadata.json_file), metadata.image_root)
    assert "crowd" in issue.what


@pytest.mark.parametrize(
    ("found", "read"),
    [(None, 0), ("0", 0), ("1", 1), (0.0, 0), (1.0, 1), (True, 1), (False, 0), (2, 2), ("x", "x")],
)
def test_iscrowd_has_one_spelling(found, read):
    (annotation,) = CocoDataset.from_dict(content(iscrowd=found)).annotations
    assert annotation["iscrowd"] == read
    assert type(annotation["iscrowd"]) is type(read)
    assert CocoDataset.from_dict(content()).annotations[0]["iscrowd"] == 0


@pytest.mark.parametrize("spelling", [float, str])
def test_integral_ids_and_sizes_are_integers(spelling):
    dataset = content()
    for item, keys in (
        (dataset["images"][0], ("id", "height", "width")),
        (dataset["annotations"][0], ("id", "image_id", "category_id")),
        (dataset["categories"][0], ("id",)),
    ):
        item.update({key: spelling(item[key]) for key in keys})
    assert CocoDataset.from_dict(dataset) == CocoDataset.from_dict(content())


@pytest.mark.parametrize("value", [1.5, "1.5", "-", "", True, math.inf, math.nan, "9" * 5000, [1]])
def test_other_ids_stay_as_they_are_and_are_errors(value):
    dataset = CocoDataset.from_dict(content(id=value))
    assert dataset.annotations[0]["id"] is value
    assert "annotation whose 'id'" in find_issues(dataset, None)[0].what


@pytest.mark.parametrize(
    ("found", "read"),
    [
        (None, None),
        ([], None),
        ([[]], None),
        ([[], TRIANGLE], [TRIANGLE]),
        ([[[2, 2], [12, 2], [2, 12]]], [TRIANGLE]),
        ([TRIANGLE], [TRIANGLE]),
    ],
)
def test_masks_have_one_spelling(found, read):
    dataset = CocoDataset.from_dict(content(segmentation=found))
    assert dataset.annotations[0].get("segmentation") == read
    assert ("segmentation" in dataset.annotations[0]) == (read is not None) == dataset.has_masks
    (record,) = dataset.records("images")
    assert record["annotations"][0].get("segmentation") == read


def test_windows_paths(tmp_path):
    dataset = content()
    dataset["images"][0]["file_name"] = "day\\a.png"
    (record,) = CocoDataset.from_dict(dataset).records(tmp_path)
    assert record["file_name"] == str(tmp_path / "day" / "a.png")
    (tmp_path / "day\\a.png").touch()  # a name that Linux allows
    (record,) = CocoDataset.from_dict(dataset).records(tmp_path)
    assert record["file_name"] == str(tmp_path / "day\\a.png")
    for name in ("..\\a.png", "C:\\a.png", "\\a.png"):
        dataset["images"][0]["file_name"] = name
        with pytest.raises(DatasetError, match="does not lie in the folder"):
            CocoDataset.from_dict(dataset).records(tmp_path)


def test_a_file_is_parsed_once_until_it_changes(tmp_path):
    path = tmp_path / "own.json"
    path.write_text("\N{BYTE ORDER MARK}" + json.dumps(content()), "utf-8")
    dataset = read_coco(path)
    assert read_coco(str(path)) is dataset
    load_coco_records(path, tmp_path)
    assert read_coco(path) is dataset
    path.write_text(json.dumps({**content(), "annotations": []}))
    assert read_coco(path).annotations == []


def test_parsed_files_are_forgotten_but_that_of_the_evaluation(registered):
    names = [registered(name, content()) for name in ("training", "validation")]
    training, validation = (Path(MetadataCatalog.get(name).json_file) for name in names)
    first, second = read_coco(training), read_coco(validation)
    forget_annotations(but="validation")
    assert read_coco(validation) is second
    assert read_coco(training) is not first


def test_a_file_without_annotations_is_read_for_its_images(tmp_path):
    dataset = content()
    del dataset["annotations"]
    assert CocoDataset.from_dict(dataset).annotations == []


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_fill_their_image_and_no_other(seed):
    rng = np.random.default_rng(seed)
    height, width = map(int, rng.integers(2, 90, 2))
    mask = rng.random((height, width)) < rng.random() ** 2
    mask[: height // 2] = seed % 2
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = {"size": [height, width], "counts": encoded["counts"].decode()}
    assert segmentation_error(encoded, height, width) == ""
    assert segmentation_error(text, height, width) == ""
    wider = {**text, "size": [height, width + 1]}
    assert "does not fill" in segmentation_error(wider, height, width + 1)


def test_a_name_depends_on_the_paths_and_registering_again_is_harmless(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content()))
    name = register_coco(read_coco(path), tmp_path)
    assert name.startswith("own_")
    assert register_coco(read_coco(path), tmp_path / "else") != name

    changed = content()
    changed["categories"].append({"id": 5, "name": "washer"})
    path.write_text(json.dumps(changed))
    assert register_coco(read_coco(path), tmp_path) == name
    assert MetadataCatalog.get(name).thing_classes == ["bolt", "washer", "nut"]
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(tmp_path / "a.png")
    assert [annotation["category_id"] for annotation in record["annotations"]] == [2]


@pytest.fixture
def registered(tmp_path):
    """Registers a dataset with Detectron2's own function; returns a function (name, content)."""
    names = []

    def register(name, dataset, folder=tmp_path, encoding="utf-8", **metadata):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(dataset), encoding)
        register_coco_instances(name, metadata, str(path), str(folder))
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_several_datasets_are_loaded_one_after_the_other(registered):
    first = registered("first", content(iscrowd=0))
    second = registered("second", content(iscrowd=1))
    third = registered("third", {**content(), "categories": [{"id": 90, "name": "other"}]})
    assert len(load_records([first])) == len(load_records([first, second])) == 1
    assert len(load_records([first, second], filter_empty=False)) == 2
    with pytest.raises(DatasetError, match="first, third"):
        load_records([first, third])
    with pytest.raises(DatasetError, match="second"):
        load_records(second)


def test_registered_datasets_are_normalised_and_read_once(registered, caplog):
    dataset = content(iscrowd=None, segmentation=[[[2, 2], [12, 2], [2, 12]]])
    dataset["annotations"] *= 3
    for number, (annotation, crowd) in enumerate(zip(dataset["annotations"], (None, "0", "1"))):
        dataset["annotations"][number] = {**annotation, "id": str(number), "iscrowd": crowd}
    dataset["images"][0]["id"] = 4.0
    name = registered("exported", dataset, encoding="utf-8-sig")
    (record,) = load_records(name)
    assert record["image_id"] == 4
    assert [annotation["iscrowd"] for annotation in record["annotations"]] == [0, 0, 1]
    assert [annotation["category_id"] for annotation in record["annotations"]] == [1, 1, 1]
    assert record["annotations"][0]["segmentation"] == [TRIANGLE]
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["bolt", "nut"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 90: 1}
    assert COCOEvaluator(name).dataset is read_coco(metadata.json_file)
    assert "object that is annotated more than once" in caplog.text
    caplog.clear()
    load_records(name)
    assert caplog.text == ""


def test_a_registered_dataset_is_evaluated_before_it_is_loaded(registered):
    name = registered("unloaded", content(iscrowd=None), encoding="utf-8-sig")
    assert COCOEvaluator(name).dataset.annotations[0]["iscrowd"] == 0


def test_errors_in_registered_datasets_are_listed(registered):
    dataset = content(bbox=[40, 2, 10, 10])
    del dataset["images"][0]["height"]
    name = registered("wrong", dataset)
    with pytest.raises(DatasetError, match="wrong.json.*\n.*'height'.*: None × 32"):
        load_records(name)
    name = registered("renamed", content(), thing_classes=["bolt", "screw"])
    with pytest.raises(DatasetError, match="'screw'.*'nut'"):
        load_records(name)
    assert len(load_records(registered("named", content(), thing_classes=("bolt", "nut")))) == 1


def test_a_registered_path_that_there_is_not_is_named(registered, tmp_path):
    name = registered("nowhere", content(), tmp_path / "no folder")
    with pytest.raises(DatasetError, match="no folder'; correct the path with which"):
        check_datasets(name)
    if not Path(MetadataCatalog.get("lvis_v1_train").json_file).exists():
        with pytest.raises(DatasetError, match="DETECTRON2_DATASETS"):
            check_datasets("lvis_v1_train")


def test_registered_datasets_with_absolute_paths(registered, tmp_path):
    dataset = content()
    image = tmp_path / "images" / "a.png"
    dataset["images"][0]["file_name"] = str(image)
    for name, folder in (("in_folder", tmp_path), ("in_root", "/"), ("anywhere", "")):
        (record,) = load_records(registered(name, dataset, folder))
        assert record["file_name"] == str(image)
    name = registered("elsewhere", dataset, tmp_path / "images" / "more")
    (tmp_path / "images" / "more").mkdir(parents=True)
    with pytest.raises(DatasetError, match="does not lie in the folder"):
        load_records(name)


def test_keypoints_are_left_to_detectron2(registered):
    dataset = content(keypoints=[5, 5, 2], num_keypoints=1)
    dataset["categories"][1].update(keypoints=["head"], skeleton=[])
    name = registered("with_keypoints", dataset, keypoint_names=["head"])
    loader = DatasetCatalog.data[name]
    (record,) = load_records(name)
    assert record["annotations"][0]["keypoints"] == [5.5, 5.5, 2]
    assert DatasetCatalog.data[name] is loader


def test_crowds_of_other_functions_have_one_spelling():
    def records(crowds):
        return [{"file_name": "a.png", "annotations": [{"iscrowd": each} for each in crowds]}]

    name = "from_a_function"
    try:
        for crowds in ([None, "0", 0], [None, "1", True], ["yes", 0]):
            DatasetCatalog.register(name, lambda crowds=crowds: records(crowds))
            if "yes" in crowds:
                with pytest.raises(DatasetError, match="from_a_function has 'iscrowd': 'yes'"):
                    load_records(name)
            else:
                (record,) = load_records(name)
                found = [annotation["iscrowd"] for annotation in record["annotations"]]
                assert found == [int(each or 0) for each in crowds]
            DatasetCatalog.remove(name)
    finally:
        MetadataCatalog.remove(name)


def test_missing_datasets_are_named():
    with pytest.raises(DatasetError, match="'shapes_vla'.* shapes_val"):
        check_datasets("shapes_train", ["shapes_vla"])


def test_detectron2s_datasets_are_read_by_this_package_once_asked_for(coco_sample, monkeypatch):
    name, other = "coco_2017_val", "coco_2017_train"
    folder = str(coco_sample / "coco" / "val2017")
    json_file = coco_sample / "coco" / "annotations" / "instances_val2017.json"
    monkeypatch.setitem(DatasetCatalog.data, name, DatasetCatalog.data[name])
    original = DatasetCatalog.data[other]
    load_records(name, filter_empty=False)
    assert DatasetCatalog.data[name].args[:2] == (str(json_file), folder)
    assert DatasetCatalog.data[other] is original
