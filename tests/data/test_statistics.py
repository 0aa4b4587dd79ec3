import numpy as np
import pytest

from mvit_det.data.coco import CocoDataset
from mvit_det.data.statistics import ClassCount
from mvit_det.data.statistics import count as count_dataset


def count(content):
    return count_dataset(CocoDataset.from_dict(content))


@pytest.fixture
def dataset():
    boxes = {1: [0, 0, 10, 40], 2: [0, 0, 32, 32], 3: [5, 5, 200, 100], 4: [0, 0, 9, 9]}
    return {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": 100 * number, "width": 300}
            for number in (1, 2, 3)
        ],
        "categories": [{"id": 9, "name": "nut"}, {"id": 4, "name": "bolt"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": boxes[1]},
            {"id": 2, "image_id": 1, "category_id": 4, "bbox": boxes[2]},
            {"id": 3, "image_id": 3, "category_id": 4, "bbox": boxes[3]},
            {"id": 4, "image_id": 2, "category_id": 9, "bbox": boxes[4], "iscrowd": 1},
        ],
    }


def test_counts(dataset):
    statistics = count(dataset)
    assert statistics.images == 3
    assert statistics.images_without_objects == 1
    assert statistics.classes == [
        ClassCount("bolt", objects=3, crowds=0, images=2),
        ClassCount("nut", objects=0, crowds=1, images=1),
    ]
    assert statistics.sizes == {"small": 1, "medium": 1, "large": 1}
    assert statistics.objects_per_image.tolist() == [2, 0, 1]
    np.testing.assert_allclose(statistics.box_sides, [20, 32, np.sqrt(20_000)])
    np.testing.assert_allclose(statistics.aspect_ratios, [0.25, 1, 2])
    assert statistics.heights.tolist() == [100, 200, 300]
    assert statistics.widths.tolist() == [300] * 3


def test_as_text(dataset):
    lines = str(count(dataset)).splitlines()
    assert lines[0] == "3 images (1 without objects), 3 objects and 1 crowds in 2 classes"
    assert "| bolt    |         3 |        0 |        2 |" in lines
    (row,) = (line for line in lines if line.startswith("| objects per image"))
    assert row.replace("|", " ").split()[3:] == ["0", "0.1", "1", "1.9", "2"]
    assert lines[-1].startswith("Boxes: 1 small (33%), 1 medium (33%), 1 large (33%)")


def test_unusable_annotations_are_skipped(dataset):
    expected = str(count(dataset))
    good = dataset["annotations"][0]
    for change in (
        {"bbox": [0, 0, 0, 5]},
        {"bbox": [0, 0, float("nan"), 5]},
        {"bbox": None},
        {"image_id": 99},
        {"image_id": [1]},
        {"category_id": "bolt"},
    ):
        dataset["annotations"].append({**good, **change})
    assert str(count(dataset)) == expected


def test_nothing_at_all():
    statistics = count({"images": [], "annotations": [], "categories": []})
    assert str(statistics).startswith("0 images (0 without objects), 0 objects and 0 crowds in 0")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("007", "007"), ("1e5", "1e5"), ("a\n b", "a b"), ("a|b", r"a\|b"), ("", "")],
)
def test_a_class_may_have_any_name(name, shown, dataset):
    dataset["categories"][1]["name"] = name
    lines = str(count(dataset)).splitlines()
    table = [line for line in lines if line.startswith("| ") and line.count(" | ") == 3]
    assert len(table) == 1 + len(dataset["categories"])
    assert table[1].split(" | ")[0].strip("| ") == shown
