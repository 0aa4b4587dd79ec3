"""Predictions for other tools: supervision, and CSV beside JSON."""

import csv
import errno
import json
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mvit_det.cli.main import command
from mvit_det.errors import ConfigError, ImageError
from mvit_det.prediction import Prediction
from mvit_det.runtime import RuntimePrediction
from tests.prediction.test_sharing import noise, train


@pytest.fixture
def prediction():
    found = Instances((4, 6))
    found.pred_boxes = Boxes(torch.tensor([[0.5, 1, 3, 4], [2, 0, 6, 2.25]]))
    found.scores = torch.tensor([0.75, 0.5])
    found.pred_classes = torch.tensor([1, 0])
    found.pred_masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    found.pred_masks[0, 1:4, 1:3] = True
    found.pred_masks[1, 0:2, 2:6] = True
    return Prediction(np.zeros((4, 6, 3), np.uint8), found, ("bolt", "washer"), (10, 70))


@pytest.fixture(params=["detector", "exported detector"])
def saved(request, prediction):
    """A prediction of either kind."""
    if request.param == "detector":
        return prediction
    return RuntimePrediction(
        image=np.zeros((4, 6, 3), np.uint8),
        boxes=np.array([[0.5, 1, 3, 4]], np.float32),
        scores=np.array([0.75], np.float32),
        classes=np.array([1]),
        masks=None,
        class_names=("bolt", "washer"),
        category_ids=(10, 70),
    )


@pytest.mark.parametrize("path", ["s3://bucket/found.png", "s3://bucket/found.json"])
def test_nothing_is_saved_to_urls(path, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=path):
        saved.save(path)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_the_new_one_cannot_be_written(saved, tmp_path, monkeypatch):
    path = tmp_path / "found.png"
    path.write_text("older")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    saved.save("~/found.png")
    assert (tmp_path / "home" / "found.png").is_file()
    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ImageError, match="No space left"):
        saved.save(path)
    assert path.read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2


def test_supervision(prediction):
    supervision = pytest.importorskip("supervision")
    detections = prediction.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [[0.5, 1, 3, 4], [2, 0, 6, 2.25]]
    assert detections.confidence.tolist() == [0.75, 0.5]
    assert detections.class_id.tolist() == [1, 0]
    assert detections.data["class_name"].tolist() == ["washer", "bolt"]
    assert np.array_equal(detections.mask, prediction.instances.pred_masks.numpy())
    assert detections[detections.class_id == 0].area.tolist() == [8]
    image = np.full((4, 6, 3), 9, np.uint8)
    drawn = supervision.MaskAnnotator().annotate(image.copy(), detections)
    assert (drawn != image).any()


def test_supervision_without_masks_and_without_objects(prediction):
    supervision = pytest.importorskip("supervision")
    prediction.instances.remove("pred_masks")
    assert prediction.to_supervision().mask is None
    empty = Prediction(prediction.image, prediction.instances[:0], ("bolt", "washer"), (10, 70))
    assert len(empty.to_supervision()) == 0
    assert empty.to_supervision().xyxy.shape == supervision.Detections.empty().xyxy.shape


def test_a_missing_supervision_is_named(prediction, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"mvit_det\[supervision\]"):
        prediction.to_supervision()


def test_csv_has_the_rows_of_json(tmp_path):
    from PIL import Image

    config, weights = train("shapes/mask_rcnn_mvitv2_pico", tmp_path)
    Image.fromarray(noise()).save(tmp_path / "noise.png")
    arguments = ["--config-file", config, "--weights", weights, "--input", tmp_path / "noise.png"]
    arguments += ["--output", tmp_path / "found", "--device", "cpu", "--csv"]
    assert command("predict")([*map(str, arguments), "--confidence-threshold", "0.1"]) == 0
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    with open(tmp_path / "found" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results) > 0
    names = {10: "bolt", 20: "nut", 30: "washer", 40: "gear", 70: "pin"}
    for row, result in zip(rows, results):
        assert [float(row[key]) for key in ("x", "y", "width", "height")] == result["bbox"]
        assert float(row["score"]) == result["score"]
        assert row["class"] == names[result["category_id"]]
        assert row["file_name"] == result["file_name"]
        assert row["frame"] == ""
