"""Classifying videos: clip after clip, with the scores of an evaluation, drawn and as tables."""

import csv
import json
import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from mvit_det import Classifier, VideoClassifier
from mvit_det.config import load_config
from mvit_det.data.videos import VideoReader
from mvit_det.errors import CheckpointError, ConfigError, ImageError
from tests.data.test_videos import gestures  # noqa: F401
from tests.prediction.test_classifier import NAMES, make_weights
from tools.classify_video import main

THIN = (
    "model.num_classes=6",
    "model.classifier.depths=[1,1]",
    "model.classifier.embed_dim=16",
    "model.classifier.frames=4",
    "model.classifier.img_size=32",
    "dataloader.train.mapper.image_size=32",
    "dataloader.train.mapper.sampling.num_frames=4",
    "dataloader.test.mapper.short_side=32",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    config = load_config(
        "configs/Kinetics/mvitv2_s.py", (*THIN, "dataloader.train.mapper.sampling.step=2")
    )
    make_weights(config, folder / "model.pth", class_names=NAMES)
    return config, folder / "model.pth"


def write_noise(path, count, rate=30.0):
    generator = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (48, 40))
    for _ in range(count):
        coarse = generator.integers(0, 255, (4, 4, 3), np.uint8)
        writer.write(cv2.resize(coarse, (48, 40)))
    writer.release()
    return path


def test_the_clip_of_a_short_video_is_that_of_an_evaluation(trained, tmp_path):
    config, weights = trained
    path = write_noise(tmp_path / "short.avi", 8)
    classifier = VideoClassifier(config, weights, device="cpu")
    (clip,) = classifier(path)
    mapper = instantiate(config.dataloader.test.mapper)
    mapper.clips = 1
    record = mapper({"file_name": str(path), "image_id": 0, "label": 0})
    with torch.no_grad():
        (output,) = classifier.model([record])
    scores, classes = output["scores"].topk(5)
    assert [each.score for each in clip.classes] == pytest.approx(scores.tolist(), abs=1e-6)
    assert [each.name for each in clip.classes] == [NAMES[index] for index in classes]
    assert (clip.start, clip.end) == (0, pytest.approx(8 / 30))


@pytest.mark.parametrize(
    ("frames", "rate", "ends"),
    [
        (24, 30, [8, 16, 24]),
        (22, 30, [8, 16, 22]),
        (19, 30, [8, 19]),
        (3, 30, [3]),
        (8, 15, [4, 8]),
    ],
)
def test_clips_follow_one_another_to_the_end(trained, tmp_path, frames, rate, ends):
    config, weights = trained
    path = write_noise(tmp_path / "x.avi", frames, rate)
    clips = VideoClassifier(config, weights, device="cpu", batch_size=2)(path)
    assert [clip.end * rate for clip in clips] == pytest.approx(ends)
    assert [clip.start for clip in clips[1:]] == [clip.end for clip in clips[:-1]]


def test_a_model_of_segments_sees_a_whole_video(tmp_path):
    config = load_config("configs/SSv2/mvitv2_s.py", THIN)
    make_weights(config, tmp_path / "model.pth", class_names=NAMES)
    path = write_noise(tmp_path / "x.avi", 50)
    (clip,) = VideoClassifier(config, tmp_path / "model.pth", device="cpu")(path)
    assert (clip.start, clip.end) == (0, pytest.approx(50 / 30))


def test_labels_are_drawn_while_their_clip_lasts(trained, tmp_path):
    config, weights = trained
    path = write_noise(tmp_path / "x.avi", 24)
    classifier = VideoClassifier(config, weights, device="cpu")
    results = classifier(path)
    classifier.draw(path, results, tmp_path / "drawn.mp4", labels=2)
    with VideoReader(tmp_path / "drawn.mp4") as reader, VideoReader(path) as source:
        drawn, plain = (np.stack(list(each)).astype(int) for each in (reader, source))
    assert drawn.shape == plain.shape
    changed = abs(drawn - plain).mean((1, 2, 3))
    assert (changed > 5).all()


def test_a_truncated_video_gives_its_beginning(trained, tmp_path, caplog):
    config, weights = trained
    classifier = VideoClassifier(config, weights, device="cpu")
    path = write_noise(tmp_path / "cut.avi", 48)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with caplog.at_level(logging.WARNING):
        clips = classifier(path)
    assert "cut.avi" in caplog.text
    assert 1 < len(clips) < 6


def test_mistakes_are_one_sentence(trained, tmp_path):
    config, weights = trained
    with pytest.raises(ConfigError, match="ClipMapper"):
        VideoClassifier("configs/ImageNet/mvitv2_t.py", weights)
    with pytest.raises(ConfigError, match="ClassificationMapper"):
        Classifier(config, weights)
    with pytest.raises(CheckpointError, match="no weights"):
        VideoClassifier(config)
    classifier = VideoClassifier(config, weights, device="cpu")
    with pytest.raises(ImageError, match=r"missing\.mp4"):
        classifier(tmp_path / "missing.mp4")


def test_kinetics_names_are_known(trained):
    config, weights = trained
    names = VideoClassifier(config, weights, device="cpu").standard_names(400)
    assert (len(names), names[0]) == (400, "abseiling")


def test_memory_does_not_grow_with_the_length(trained, tmp_path, monkeypatch):
    config, weights = trained
    classifier = VideoClassifier(config, weights, device="cpu", batch_size=2)
    largest = []
    model = classifier.model
    classifier.model = lambda batch: largest.append(len(batch)) or model(batch)
    clips = classifier(write_noise(tmp_path / "long.avi", 200))
    assert len(clips) == 25
    assert max(largest) == 2


def test_the_tool_writes_tables_and_draws(trained, tmp_path, capsys):
    config, weights = trained
    OmegaConf.save(config, tmp_path / "config.yaml")
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(2):
        write_noise(videos / f"{number}.avi", 16)
    common = ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(weights),
              "--device", "cpu", "--top", "2", "--input", str(videos)]  # fmt: skip
    drawn = ["--draw", str(tmp_path / "drawn")]
    assert main([*common, "--output", str(tmp_path / "out.csv"), *drawn]) == 0
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_name"][-5:], row["start"], row["rank"]) for row in rows[:5]] == [
        ("0.avi", "0.000", "1"), ("0.avi", "0.000", "2"), ("0.avi", "0.267", "1"),
        ("0.avi", "0.267", "2"), ("1.avi", "0.000", "1"),
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "0.avi.mp4",
        "1.avi.mp4",
    ]
    (tmp_path / "drawn" / "0.avi.mp4").unlink()
    (tmp_path / "drawn" / "0.avi.mp4").mkdir()
    assert main([*common, *drawn]) == 1
    assert "drawn/0.avi.mp4" in capsys.readouterr().err
    (videos / "1.avi").write_text("no video")
    assert main([*common, "--output", str(tmp_path / "out.json")]) == 1
    (entry,) = json.loads((tmp_path / "out.json").read_text())
    assert entry["clips"][1]["classes"][0]["name"] == rows[2]["class"]
    assert "1.avi" in capsys.readouterr().err
    assert main(common) == 1
    printed = capsys.readouterr().out
    assert "0.3 to 0.5" in printed
    assert rows[0]["class"] in printed


def test_real_videos_are_classified_over_time(trained, gestures):  # noqa: F811
    config, weights = trained
    clips = VideoClassifier(config, weights, device="cpu")(gestures / "milk.mkv")
    assert clips[-1].end == pytest.approx(51 / 30)
    assert all(sum(each.score for each in clip.classes) <= 1.0001 for clip in clips)
