"""The commands of docs/prediction.md."""

import json
import re

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

from mvit_det import model_zoo
from mvit_det.checkpoint import Checkpointer
from mvit_det.checkpoint.download import cache_path
from mvit_det.config import load_config
from mvit_det.data.images import read_image
from mvit_det.data.shapes import generate_shapes
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader


def write_training(folder):
    """The output folder of a training, with a model whose random weights give high scores."""
    config = load_config("configs/shapes/mask_rcnn_mvitv2_pico.py")
    torch.manual_seed(0)
    model = instantiate(config.model)
    model.roi_heads.box_predictor.cls_score.weight.data *= 200
    Checkpointer(model, folder, class_names=["ash", "elm", "fir", "oak", "yew"]).save("model_final")
    LazyConfig.save(config, str(folder / "config.yaml"))


@pytest.mark.slow
def test_prediction(run_page, tmp_path, monkeypatch, capsys):
    write_training(tmp_path / "output")
    generate_shapes(tmp_path / "shapes", num_images=4, size=(64, 96), seed=0)
    images = [read_image(path) for path in sorted((tmp_path / "shapes" / "images").glob("*.png"))]
    for name, image in zip(("photo.jpg", "photos/1.jpg", "photos/2.jpg", "more/a/4.png"), images):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    with VideoWriter(tmp_path / "clip.mp4", 10) as video:
        for image in images:
            video.write(image)
    # Where the download of a published detector would be.
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / ".cache"))
    weights = cache_path(model_zoo.MODELS["mask_rcnn_mvitv2_t"].url)
    weights.parent.mkdir(parents=True)
    published = instantiate(model_zoo.get_config("mask_rcnn_mvitv2_t").model)
    torch.save({"model": published.state_dict()}, weights)

    found, published = run_page("prediction.md", tmp_path)

    printed = capsys.readouterr().out
    assert re.search(r"^(ash|elm|fir|oak|yew) [01]\.\d\d: -?\d+, -?\d+ to \d+, \d+$", printed, re.M)
    assert "('person', 'bicycle', 'car')" in printed
    assert re.search(r"^\d+ instances, \d+ in the clip, the first in frame \d$", printed, re.M)
    original = read_image(tmp_path / "photo.jpg")
    for name in ("photo_drawn.jpg", "drawn.png", "found/photo.jpg"):
        drawn = read_image(tmp_path / name)
        assert drawn.shape == original.shape
        assert (np.abs(drawn.astype(int) - original).max(axis=2) > 60).mean() > 0.02
    assert json.loads((tmp_path / "photo.json").read_text())
    assert "in 4 images and 1 videos (4 frames); wrote them to 'found'" in found
    assert found.splitlines()[-6:] == [
        *("1.jpg", "2.jpg", "4.png", "clip.mp4", "photo.jpg", "predictions.json")
    ]
    with VideoReader(tmp_path / "found" / "clip.mp4") as reader:
        assert len(list(reader)) == 4
    assert "in 1 images" in published
    assert (tmp_path / "photo_coco.png").exists()
