import copy
import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json as detectron2_load_coco_json
from pycocotools import mask as mask_util

from mvit_det.data.annotations import segmentation_error
from mvit_det.data.coco_json import load_coco_json, read_coco_json
from mvit_det.data.registration import register_coco_json
from mvit_det.data.validation import find_issues


def without_ids(records):
    records = copy.deepcopy(records)
    for record in records:
        for annotation in record["annotations"]:
            annotation.pop("id")
    return records


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_is_as_detectron2_loads_it_and_has_no_errors(split, coco_sample):
    json_file = coco_sample / "coco" / "annotations" / f"instances_{split}.json"
    folder = coco_sample / "coco" / split
    issues = find_issues(read_coco_json(json_file), folder, need_masks=True)
    assert {problem.severity for problem in issues} <= {"warning"}
    records = load_coco_json(str(json_file), str(folder))
    expected = detectron2_load_coco_json(str(json_file), str(folder), f"coco_2017_{split[:-4]}")
    # Not one assertion, whose message would show all annotations.
    for record, other in zip(without_ids(records), expected, strict=True):
        assert record.keys() == other.keys()
        assert record == other, record["file_name"]


def test_plain_run_lengths_are_compressed(shapes_root):
    DatasetCatalog.get("shapes_val")
    metadata = MetadataCatalog.get("shapes_val")
    records = load_coco_json(metadata.json_file, metadata.image_root)
    assert without_ids(records) == without_ids(
        [
            {**record, "annotations": [{"id": 0, **each} for each in record["annotations"]]}
            for record in DatasetCatalog.get("shapes_val")
        ]
    )
    assert find_issues(read_coco_json(metadata.json_file), metadata.image_root)[0].what == (
        "crowd ('iscrowd': 1)"
    )


@pytest.mark.parametrize("seed", range(20))
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
    assert segmentation_error(wider, height, width + 1) == (
        "run-length encoding that does not fill the image"
    )


def test_a_name_depends_on_the_paths_and_registering_again_is_harmless(tmp_path):
    dataset = {
        "images": [{"id": 4, "file_name": "a.png", "height": 8, "width": 9}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 90, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 90, "name": "nut"}, {"id": 2, "name": "bolt"}],
    }
    (tmp_path / "own.json").write_text("\N{BYTE ORDER MARK}" + json.dumps(dataset), "utf-8")
    dataset = read_coco_json(tmp_path / "own.json")
    name = register_coco_json(dataset, tmp_path / "own.json", tmp_path)
    assert name.startswith("own_")
    assert register_coco_json(dataset, tmp_path / "own.json", tmp_path / "else") != name

    dataset["categories"].append({"id": 5, "name": "washer"})
    (tmp_path / "own.json").write_text(json.dumps(dataset))
    assert register_coco_json(dataset, tmp_path / "own.json", tmp_path) == name
    assert MetadataCatalog.get(name).thing_classes == ["bolt", "washer", "nut"]
    (record,) = DatasetCatalog.get(name)
    assert record["file_name"] == str(tmp_path / "a.png")
    (annotation,) = record["annotations"]
    assert annotation["category_id"] == 2
    assert "segmentation" not in annotation
