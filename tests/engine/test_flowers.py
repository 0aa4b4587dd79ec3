"""Fine-tuning and linear probing on real photographs of five classes, of which chance gets 20 %."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvit_det.data.shape_classes import generate_shape_classes
from tests.engine.trainings import ROOT, TOOL, load

FLOWERS = Path(os.getenv("DETECTRON2_DATASETS", "datasets"), "flowers")
CONFIG = "configs/shapes/classifier_mvitv2_pico.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FLOWERS.is_dir(), reason="needs the images of five flowers in $DETECTRON2_DATASETS"
    ),
]


def train(folders, output, *overrides):
    done = subprocess.run(
        [sys.executable, TOOL, "--config-file", CONFIG, "--device", "cpu",
         "--train-folder", str(folders / "train"), "--val-folder", str(folders / "val"),
         f"train.output_dir={output}", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    with open(output / "evaluation" / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = [int(row["images"]) for row in rows]
    return sum(float(row["top1"]) * n for row, n in zip(rows, images)) / sum(images)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Weights of a classifier of shapes after a few seconds of training."""
    root = tmp_path_factory.mktemp("shapes")
    for seed, (split, count) in enumerate({"train": 300, "val": 20}.items()):
        generate_shape_classes(root / split, count, 64, seed)
    train(root, root / "output", "train.max_iter=60")
    return root / "output" / "model_final.pth"


def test_linear_probing_trains_the_head_alone(shapes, tmp_path):
    accuracy = train(
        FLOWERS,
        tmp_path,
        "model.classifier.freeze_at=5",
        "model.classifier.drop_path_rate=0.5",
        "optimizer.lr=1e-2",
        "train.max_iter=80",
        f"train.init_checkpoint={shapes}",
    )
    assert accuracy >= 34
    before, after = torch.load(shapes, weights_only=True)["model"], load(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after["model"][name])}
    assert changed == {"classifier.head.weight", "classifier.head.bias"}
    assert set(after["trainer"]["optimizer"]) == changed


def test_fine_tuning_with_layer_decay_beats_chance_by_far(shapes, tmp_path):
    accuracy = train(
        FLOWERS,
        tmp_path,
        "optimizer.params.layer_decay=0.75",
        "train.max_iter=100",
        f"train.init_checkpoint={shapes}",
    )
    assert accuracy >= 40
