"""Runs docs/classification.md."""

import csv
import shutil
from pathlib import Path

import cv2
import pytest
import torch

from mvit_det import model_zoo, mvitv2_t
from mvit_det.checkpoint.download import cache_path
from mvit_det.data.shape_classes import generate_shape_classes
from mvit_det.data.shapes import generate_shapes

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
dataloader.train.mapper.image_size = 32
dataloader.train.num_workers = dataloader.test.num_workers = 0
"""
SHORT = """
dataloader.train.dataset.names = "shapes_train"
dataloader.test.dataset.names = "shapes_val"
dataloader.train.mapper.augmentations = dataloader.test.mapper.augmentations = []
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 2
model.roi_heads.num_classes = 5
train.max_iter = 1
train.output_dir = "output/detector"
"""


@pytest.mark.slow
def test_classification(run_page, tmp_path, monkeypatch):
    # Small images, a single step of the detector, and weights where the download would be.
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for name, change in (("ImageNet/mvitv2_t.py", SMALL), ("COCO/mask_rcnn_mvitv2_t.py", SHORT)):
        with open(tmp_path / "configs" / name, "a", encoding="utf-8") as file:
            file.write(change)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / ".cache"))
    weights = cache_path(model_zoo.MODELS["mvitv2_t_in1k"].url)
    weights.parent.mkdir(parents=True)
    torch.save({"model": mvitv2_t(num_classes=1000).state_dict()}, weights)
    for seed, (split, count) in enumerate({"train": 4, "val": 2}.items()):
        generate_shapes(tmp_path / "datasets" / "shapes" / split, count, 128, seed)
    for seed, split in enumerate(("train", "val")):
        generate_shape_classes(tmp_path / "flowers" / split, 10, 64, seed)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/1.png"):
        cv2.imwrite(str(tmp_path / name), cv2.UMat(64, 48, cv2.CV_8UC3).get())

    listed, trained, probed, evaluated, detected = run_page(
        "classification.md", tmp_path, DETECTRON2_DATASETS=str(tmp_path / "datasets")
    )

    with open(tmp_path / "classes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows[::5]] == ["photo.jpg", "photos/1.png"]
    assert "The 5 classes: circle, cross, square, star, triangle" in trained
    assert "on 10 images" in probed
    assert "on 10 images" in evaluated
    published = torch.load(weights, weights_only=True)["model"]
    probe = torch.load(tmp_path / "output/probe/model_final.pth", weights_only=True)["model"]
    for name, tensor in published.items():
        assert name.startswith("head.") or torch.equal(probe[f"classifier.{name}"], tensor), name
    assert "Outputs are in" in detected
    written = {path.name for path in (tmp_path / "output" / "flowers" / "evaluation").iterdir()}
    assert {"accuracy.csv", "confusion_matrix.png"} <= written
