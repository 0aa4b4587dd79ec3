"""Ids of objects in videos: from exact boxes, in drawings, and by the command."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from mvit_det.cli.main import command
from mvit_det.data.video_writer import VideoWriter
from mvit_det.drawing import class_colour
from mvit_det.errors import ConfigError
from mvit_det.prediction import Prediction
from mvit_det.prediction.tracking import Tracker
from tests.prediction.test_sharing import noise, train

SIZE = (120, 200)
# Four squares: start of the upper left corner, pixels per frame, class.
OBJECTS = (
    ((10, 10), (6, 0), 0),
    ((150, 20), (-6, 2), 1),  # crosses the first one
    ((20, 70), (3, 0), 0),
    ((100, 80), (0, 0), 1),
)
SIDE = 24
BLURRED, HIDDEN, LATE = range(6, 9), range(10, 14), 8


@pytest.fixture
def library():
    pytest.importorskip("trackers", reason="needs trackers: pip install --no-deps trackers")


def frame_of(number, rng):
    """A drawn frame, and exact predictions for it in random order, with one of noise."""
    image = np.full((*SIZE, 3), 90, np.uint8)
    boxes, scores, classes, objects = [], [], [], []
    for index, (start, step, label) in enumerate(OBJECTS):
        hidden = (index == 2 and number in HIDDEN) or (index == 3 and number < LATE)
        if hidden:
            continue
        x, y = (a + number * b for a, b in zip(start, step))
        image[y : y + SIDE, x : x + SIDE] = class_colour(index + 20)
        boxes.append([x, y, x + SIDE, y + SIDE])
        scores.append(0.2 if index == 0 and number in BLURRED else 0.9)
        classes.append(label)
        objects.append(index)
    x, y = rng.integers(0, 90, 2).tolist()
    boxes.append([x, y, x + 5, y + 5])
    scores.append(0.15)
    classes.append(0)
    objects.append(-1)
    order = rng.permutation(len(boxes)).tolist()
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32)[order])
    found.scores = torch.tensor(scores)[order]
    found.pred_classes = torch.tensor(classes)[order]
    found.pred_masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor.int().tolist()):
        mask[y0:y1, x0:x1] = True
    found.objects = torch.tensor(objects)[order]  # which one each is, for the test
    return Prediction(image, found, ("bolt", "nut"), (10, 70))


@pytest.mark.usefixtures("library")
def test_objects_keep_their_ids():
    rng = np.random.default_rng(0)
    tracker = Tracker(rate=10, score_threshold=0.5)
    ids, drawings = {index: [] for index in range(len(OBJECTS))}, []
    for number in range(20):
        prediction = tracker.update(frame_of(number, rng))
        found = prediction.instances
        drawings.append(prediction.draw())
        results = prediction.to_coco(number)
        assert -1 not in found.objects.tolist()  # noise below the threshold is no object
        for place, index in enumerate(found.objects.tolist()):
            track = found.track_ids[place].item()
            ids[index].append(track)
            assert results[place]["track_id"] == (track if track >= 0 else None)
            # The tracker returns another order: boxes, masks and ids still belong together.
            x, y = (a + number * b for a, b in zip(*OBJECTS[index][:2]))
            assert found.pred_boxes.tensor[place].tolist() == [x, y, x + SIDE, y + SIDE]
            assert found.pred_masks[place, y : y + SIDE, x : x + SIDE].all()
    assert [len(seen) for seen in ids.values()] == [20, 20, 16, 12]
    kept = [set(seen[1:]) for seen in ids.values()]
    assert all(len(numbers) == 1 for numbers in kept), ids
    assert len(set.union(*kept)) == 4
    assert -1 not in set.union(*kept)
    assert {seen[0] for seen in ids.values()} == {-1}
    # The last one to appear is outlined in the colour of its id.
    x, y = OBJECTS[3][0]
    assert tuple(drawings[-1][y + SIDE // 2, x + SIDE - 1].tolist()) == class_colour(ids[3][-1])


@pytest.mark.usefixtures("library")
def test_frames_without_objects():
    tracker = Tracker(rate=10, score_threshold=0.5)
    prediction = frame_of(0, np.random.default_rng(0))
    for found in (prediction.select(2), prediction, prediction, prediction.select(2), prediction):
        tracked = tracker.update(found)
    assert len(tracked.instances) == 3
    assert (tracked.instances.track_ids >= 0).all()
    ids = tracked.to_supervision().tracker_id.tolist()
    assert ids == tracked.instances.track_ids.tolist()


@pytest.mark.usefixtures("library")
def test_the_command_writes_ids(tmp_path):
    config, weights = train("shapes/mask_rcnn_mvitv2_pico", tmp_path)
    still, image = tmp_path / "still.mp4", tmp_path / "noise.png"
    with VideoWriter(still, 10) as writer:
        for _ in range(5):
            writer.write(noise())
    Image.fromarray(noise()).save(image)
    arguments = ["--config-file", config, "--weights", weights, "--device", "cpu", "--csv"]
    arguments += ["--confidence-threshold", 0.2, "--output", tmp_path / "found", "--input", image]
    run = command("predict")
    assert run([*map(str, arguments)]) == 0
    before = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert run([*map(str, arguments), str(still), "--track"]) == 0
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    # Images are as without tracking.
    assert [each for each in results if "frame" not in each] == before
    in_video = [each for each in results if "frame" in each]
    assert {each["track_id"] for each in in_video if each["frame"] == 0} == {None}
    ids = {
        number: {each["track_id"] for each in in_video if each["frame"] == number} - {None}
        for number in range(1, 5)
    }
    assert ids[1] == ids[4] != set()
    with open(tmp_path / "found" / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [each.get("track_id") for each in results]
    assert [row["track_id"] for row in rows] == ["" if each is None else str(each) for each in ids]


def test_images_alone_cannot_be_tracked(tmp_path, capsys):
    pytest.importorskip("trackers")
    Image.fromarray(noise()).save(tmp_path / "noise.png")
    arguments = ["--config-file", "mask_rcnn_mvitv2_t", "--input", str(tmp_path / "noise.png")]
    assert command("predict")([*arguments, "--output", str(tmp_path / "out"), "--track"]) == 2
    assert "--track" in capsys.readouterr().err


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ConfigError, match=r"mvit_det\[track\].*--no-deps trackers"):
        Tracker(rate=10, score_threshold=0.5)
