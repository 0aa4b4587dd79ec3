"""Panoptic and semantic segmentation in predictions, drawings and files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from mvit_det import Predictor
from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config
from mvit_det.data import register_shapes
from mvit_det.errors import ImageError
from mvit_det.prediction.files import Job, predict_files
from mvit_det.prediction.panoptic import read_output

CONFIG = Path(__file__).resolve().parents[2] / "configs/shapes/panoptic_fpn_mvitv2_pico.py"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Untrained: its stuff is noise, and some of its instances count."""
    folder = tmp_path_factory.mktemp("panoptic")
    register_shapes(folder / "shapes")
    config = load_config(CONFIG)
    config.model.roi_heads.box_predictor.test_score_thresh = 0.0
    config.model.combine_instances_score_thresh = 0.0
    torch.manual_seed(0)
    Checkpointer(instantiate(config.model), folder).save("model")
    return Predictor(config, folder / "model.pth", device="cpu")


@pytest.fixture(scope="module")
def prediction(predictor):
    return predictor(image())


def image(height=96, width=128):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_segments_are_those_of_the_model(predictor, prediction):
    entry = predictor.prepare(image()).model_input
    with torch.no_grad():
        (expected,) = predictor.model([{"image": entry, "height": 96, "width": 128}])
    numbers, segments = expected["panoptic_seg"]
    found = prediction.panoptic
    assert np.array_equal(found.segments_map, numbers.numpy())
    assert np.array_equal(found.semantic, expected["sem_seg"].argmax(dim=0).numpy())
    assert [segment.number for segment in found.segments] == [info["id"] for info in segments]
    assert [segment.is_thing for segment in found.segments] == [
        info["isthing"] for info in segments
    ]
    for segment in found.segments:
        assert segment.area == (found.segments_map == segment.number).sum()
        assert (segment.score is None) != segment.is_thing


def test_classes_of_things_and_stuff():
    """Category ids of the dataset, and names, for the model's indexes."""
    numbers = torch.tensor([[1, 1, 2], [0, 2, 2]])
    output = {
        "panoptic_seg": (
            numbers,
            [
                {"id": 1, "isthing": True, "score": 0.75, "category_id": 1},
                {"id": 2, "isthing": False, "category_id": 2, "area": 3},
            ],
        ),
        "sem_seg": torch.eye(3)[numbers].permute(2, 0, 1),
    }
    stuff = {0: "things", 92: "sky", 93: "sea"}
    found = read_output(output, ["cat", "dog"], [17, 18], stuff)
    thing, sea = found.segments
    assert (thing.name, thing.category_id, thing.score, thing.area) == ("dog", 18, 0.75, 2)
    assert (sea.name, sea.category_id, sea.score, sea.area) == ("sea", 93, None, 3)
    assert found.semantic.tolist() == numbers.tolist()
    assert found.to_coco(5, "5.png") == {
        "image_id": 5,
        "file_name": "5.png",
        "segments_info": [
            {"id": 1, "category_id": 18, "area": 2, "bbox": [0, 0, 2, 1], "iscrowd": 0,
             "score": 0.75},
            {"id": 2, "category_id": 93, "area": 3, "bbox": [1, 0, 2, 2], "iscrowd": 0},
        ],
    }  # fmt: skip
    assert read_output({"instances": None}, [], [], {}) is None


def test_names_of_the_dataset(predictor, prediction):
    assert prediction.panoptic.semantic_classes[0] == "things"
    assert len(prediction.panoptic.semantic_classes) == 5
    names = {segment.name for segment in prediction.panoptic.segments}
    assert names <= {*predictor.class_names, *prediction.panoptic.semantic_classes}
    ids = {s.category_id for s in prediction.panoptic.segments if not s.is_thing}
    assert not ids & set(predictor.category_ids)


def test_pngs(prediction, tmp_path):
    found = prediction.panoptic
    found.save_panoptic(tmp_path / "new" / "panoptic.png")
    red, green, blue = np.asarray(Image.open(tmp_path / "new" / "panoptic.png")).T.astype(int)
    assert np.array_equal((red + 256 * green + 65536 * blue).T, found.segments_map)
    found.save_semantic(tmp_path / "semantic.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "semantic.png")), found.semantic)
    with pytest.raises(ImageError, match=r"panoptic\.jpg"):
        found.save_panoptic(tmp_path / "panoptic.jpg")


def test_drawing_shows_stuff(prediction):
    drawn = prediction.draw()
    assert drawn.shape == (96, 128, 3)
    stuff = [segment for segment in prediction.panoptic.segments if not segment.is_thing]
    assert stuff
    for segment in stuff:
        pixels = prediction.panoptic.segments_map == segment.number
        assert (drawn[pixels] != prediction.image[pixels]).mean() > 0.5


def test_files(predictor, tmp_path):
    jobs = []
    for name in ("a", "b"):
        Image.fromarray(image()).save(tmp_path / f"{name}.jpg")
        jobs.append(Job(tmp_path / f"{name}.jpg", tmp_path / "out" / f"{name}.jpg"))
    reports = list(predict_files(predictor, jobs, tmp_path / "out" / "predictions.json"))
    assert [report.problem for report in reports] == ["", ""]
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [entry["file_name"] for entry in content["annotations"]] == ["a.png", "b.png"]
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 2]
    for entry in content["annotations"]:
        pixels = np.asarray(Image.open(tmp_path / "out" / "panoptic" / entry["file_name"]))
        numbers = {info["id"] for info in entry["segments_info"]}
        assert set(np.unique(pixels[..., 0])) - {0} == numbers
