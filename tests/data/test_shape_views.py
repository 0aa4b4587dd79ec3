"""The panoptic view of the generated shapes, and the one in LVIS's format."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import get_fed_loss_cls_weights
from pycocotools import mask as mask_util

from mvit_det.data import check_datasets, generate_shapes
from mvit_det.data.catalog import use_own_readers
from mvit_det.data.lvis import federated_weights, load_lvis_records
from mvit_det.data.shape_scene import SURFACES
from mvit_det.data.shapes import STUFF_CLASSES, semantic_map, to_lvis
from mvit_det.errors import DatasetError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views") / "set"
    return generate_shapes(folder, 40, 64, 0, crowd_fraction=0.3)


def annotations_of(dataset, image):
    return [a for a in dataset["annotations"] if a["image_id"] == image["id"]]


def test_semantic_maps_are_surfaces_where_there_is_no_shape(dataset):
    assert {image["surface"] for image in dataset["images"]} == set(SURFACES)
    for image in dataset["images"]:
        found = semantic_map(image, annotations_of(dataset, image))
        assert found.shape == (64, 64)
        assert found.dtype == np.uint8
        shapes = np.zeros((64, 64), bool)
        for annotation in annotations_of(dataset, image):
            encoded = annotation["segmentation"]
            if isinstance(encoded, list):
                encoded = mask_util.frPyObjects(encoded, 64, 64)
            decoded = mask_util.decode(encoded).reshape(64, 64, -1)
            shapes |= decoded.any(axis=2)
        assert (found[shapes] == 0).all()
        assert (found[~shapes] == 1 + SURFACES.index(image["surface"])).all()


def test_surfaces_are_what_backgrounds_look_like(tmp_path):
    """Along the border, a gradient changes slowly; the others are patterned."""
    dataset = generate_shapes(tmp_path / "set", 60, 128, 3, max_shapes=1, crowd_fraction=0)
    changes = {surface: [] for surface in SURFACES}
    for image in dataset["images"]:
        pixels = cv2.imread(str(tmp_path / "set" / "images" / image["file_name"]))
        grey = cv2.GaussianBlur(pixels.astype(np.float32).mean(2), (0, 0), 2)
        background = semantic_map(image, annotations_of(dataset, image)) > 0
        changes[image["surface"]].append(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[background].mean())
    medians = {surface: np.median(values) for surface, values in changes.items()}
    assert min(medians, key=medians.get) == "gradient"


def test_lvis_format(dataset):
    lvis = to_lvis(dataset)
    crowds = {(a["image_id"], a["category_id"]) for a in dataset["annotations"] if a["iscrowd"]}
    shown = {(a["image_id"], a["category_id"]) for a in lvis["annotations"]}
    assert crowds
    assert len(lvis["annotations"]) == sum(not a["iscrowd"] for a in dataset["annotations"])
    assert not any("iscrowd" in annotation for annotation in lvis["annotations"])
    for image in lvis["images"]:
        assert image["coco_url"] == f"images/{image['file_name']}"
        for category in range(1, 6):
            pair = (image["id"], category)
            assert (category in image["not_exhaustive_category_ids"]) == (pair in crowds)
            assert (category in image["neg_category_ids"]) == (pair not in crowds | shown)
    for category in lvis["categories"]:
        images = sum(pair[1] == category["id"] for pair in shown)
        assert category["image_count"] == images
        assert category["frequency"] == ("r" if images <= 10 else "c")
    instances = sum(category["instance_count"] for category in lvis["categories"])
    assert instances == len(lvis["annotations"])


def test_lvis_is_loaded_without_its_package(dataset, tmp_path):
    (tmp_path / "lvis.json").write_text(json.dumps(to_lvis(dataset)))
    records = load_lvis_records(tmp_path / "lvis.json", "/images", "lvis_of_a_test")
    assert [record["image_id"] for record in records] == list(range(1, 41))
    assert records[0]["file_name"] == "/images/images/000001.png"
    content = json.loads((tmp_path / "lvis.json").read_text())
    for record, image in zip(records, content["images"], strict=True):
        wanted = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert [a["bbox"] for a in record["annotations"]] == [a["bbox"] for a in wanted]
        assert [a["category_id"] + 1 for a in record["annotations"]] == [
            a["category_id"] for a in wanted
        ]
        assert record["neg_category_ids"] == image["neg_category_ids"]
    metadata = MetadataCatalog.get("lvis_of_a_test")
    counts = [category["image_count"] for category in content["categories"]]
    assert [count["image_count"] for count in metadata.class_image_count] == counts
    weights = federated_weights("lvis_of_a_test", 0.5)()
    assert weights.tolist() == pytest.approx([count**0.5 for count in counts])
    MetadataCatalog.remove("lvis_of_a_test")


def test_lvis_loader_equals_that_of_detectron2(dataset, tmp_path):
    pytest.importorskip("lvis")
    from detectron2.data.datasets import load_lvis_json as theirs

    (tmp_path / "lvis.json").write_text(json.dumps(to_lvis(dataset)))
    name, root = "lvis_v1_of_a_test", f"{tmp_path}/"
    expected = theirs(str(tmp_path / "lvis.json"), root, None)
    assert load_lvis_records(tmp_path / "lvis.json", root, name) == expected
    MetadataCatalog.remove(name)


def test_other_formats_are_refused(tmp_path):
    (tmp_path / "coco.json").write_text(
        '{"categories": [], "images": [], "annotations": [{"id": 1}]}'
    )
    with pytest.raises(DatasetError, match="is not in LVIS's format: there is no 'image_id'"):
        load_lvis_records(tmp_path / "coco.json", "", "lvis_of_a_test")
    MetadataCatalog.remove("lvis_of_a_test")


def test_detectron2_loads_its_lvis_through_it_once_asked_to(monkeypatch):
    loader = DatasetCatalog.data["lvis_v1_train"]
    assert "mvit_det" not in repr(loader)
    monkeypatch.setitem(DatasetCatalog.data, "lvis_v1_train", loader)
    use_own_readers(["lvis_v1_train"])
    assert DatasetCatalog.data["lvis_v1_train"].func is load_lvis_records
    metadata = MetadataCatalog.get("lvis_v1_train")
    assert len(metadata.thing_classes) == 1203
    weights = federated_weights("lvis_v1_train", 0.5)()
    torch.testing.assert_close(weights, get_fed_loss_cls_weights("lvis_v1_train", 0.5))
    both = federated_weights(["lvis_v1_train", "lvis_v1_train"], 0.5)()
    torch.testing.assert_close(both, weights * math.sqrt(2))
    if not Path(metadata.json_file).exists():
        with pytest.raises(DatasetError):
            DatasetCatalog.get("lvis_v1_train")


def test_views_are_registered_and_hold_the_same_images(shapes_root):
    check_datasets("shapes_panoptic_val", "shapes_lvis_val")
    plain = DatasetCatalog.get("shapes_val")
    panoptic, lvis = (DatasetCatalog.get(f"shapes_{view}_val") for view in ("panoptic", "lvis"))
    files = [record["file_name"] for record in plain]
    assert [record["file_name"] for record in panoptic] == files
    assert [record["file_name"] for record in lvis] == files
    semantic = cv2.imread(panoptic[3]["sem_seg_file_name"], cv2.IMREAD_UNCHANGED)
    assert set(np.unique(semantic)) <= set(range(len(STUFF_CLASSES)))
    assert semantic.shape == (128, 128)
    things = sum(not a["iscrowd"] for record in plain for a in record["annotations"])
    assert sum(len(record["annotations"]) for record in lvis) == things
    assert sorted(path.name for path in shapes_root.iterdir() if "val" in path.name) == [
        "val",
        "val_lvis.json",
        "val_semantic",
    ]
