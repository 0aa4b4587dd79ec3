"""Runs docs/video.md."""

import csv
import shutil
from pathlib import Path

import pytest
import torch

from mvit_det import model_zoo, video_mvitv2_s
from mvit_det.checkpoint.download import cache_path
from mvit_det.data.moving_shapes import MOTIONS, SPLITS, generate_moving_shapes
from mvit_det.data.videos import VideoReader
from tests.data.test_videos import write_video

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
dataloader.train.mapper.update(image_size=32, repeats=1)
dataloader.train.mapper.sampling.num_frames = 4
dataloader.test.mapper.update(clips=2, short_side=32)
dataloader.train.num_workers = dataloader.test.num_workers = 0
"""
SHORT = """
train.max_iter = 2
"""


@pytest.mark.slow
def test_video(run_page, tmp_path, monkeypatch):
    # Small clips, two steps of the quick start, and weights where the download would be.
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name, change in (("Kinetics/mvitv2_s.py", SMALL), ("shapes/video_mvitv2_pico.py", SHORT)):
        with open(tmp_path / "configs" / name, "a", encoding="utf-8") as file:
            file.write(change)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / ".cache"))
    weights = cache_path(model_zoo.MODELS["video_mvitv2_s_k400"].url)
    weights.parent.mkdir(parents=True)
    torch.save({"model": video_mvitv2_s().state_dict()}, weights)
    for name, (_, seed) in SPLITS.items():
        generate_moving_shapes(tmp_path / "datasets" / "shapes" / name, 20, 64, seed)
    write_video(tmp_path / "clip.mp4", range(0, 100, 5), codec="mp4v")

    printed = run_page("video.md", tmp_path, DETECTRON2_DATASETS=str(tmp_path / "datasets"))

    table, quick_start, shuffled, trained, evaluated = printed
    assert "seconds" in table
    with VideoReader(tmp_path / "labelled.mp4") as reader:
        assert sum(1 for _ in reader) == 20
    assert "on 20 images" in quick_start
    assert "on 20 images" in shuffled
    assert f"The 10 classes: {', '.join(sorted(MOTIONS))}" in trained
    assert "on 20 images" in evaluated
    with open(tmp_path / "output/clips/evaluation/accuracy.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 10
