"""Runs docs/custom-datasets.md."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from mvit_det import model_zoo
from mvit_det.checkpoint.download import cache_path
from mvit_det.config import load_config
from mvit_det.data.images import read_image
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_custom_dataset(run_page, write_parts, tmp_path, monkeypatch):
    write_parts(tmp_path)
    # A small model in the place of the page's, and its weights where the download would be.
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    pico = tmp_path / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
    shutil.copy(pico, tmp_path / "configs" / "COCO" / "mask_rcnn_mvitv2_t.py")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / ".cache"))
    weights = cache_path(model_zoo.MODELS["mask_rcnn_mvitv2_t"].url)
    weights.parent.mkdir(parents=True)
    torch.save({"model": instantiate(load_config(pico).model).state_dict()}, weights)

    with VideoWriter(tmp_path / "clip.mp4", rate=5) as clip:
        for path in sorted((tmp_path / "parts" / "val").iterdir()):
            clip.write(read_image(path))

    inspected, trained, evaluated, found, filmed = run_page("custom-datasets.md", tmp_path)

    output = tmp_path / "output" / "parts"
    assert "8 images (0 without objects), " in inspected
    assert "error: " not in inspected
    assert read_image(tmp_path / "output" / "inspection" / "contact_grid_train.png").shape[1] > 1000
    assert "The 3 classes: bolt, nut, washer" in trained
    assert "are for other classes" in trained
    # 12 epochs of 8 images, 4 at a time.
    assert "Schedule: 24 iterations of 4 images in 2 micro-batch(es) per rank" in trained
    assert (output / "evaluation_ema" / "coco_instances_results.json").exists()
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 23
    table = r"(?s)Evaluation results for segm: ?\n(.*?)\n\["
    assert re.search(table, evaluated)[1] == re.search(table, trained)[1]
    drawn = sorted((tmp_path / "output" / "found").glob("*.png"))
    assert len(drawn) == 4, found
    with VideoReader(tmp_path / "output" / "clip.mp4") as clip:
        frames = list(clip)
    assert len(frames) == 4, filmed
    grids = [output / folder / "predictions.png" for folder in ("evaluation", "evaluation_ema")]
    images = [read_image(path) for path in (*drawn, *grids)]
    for image in (*images, *frames):
        # No blank image is as colourful.
        assert image.std() > 20
