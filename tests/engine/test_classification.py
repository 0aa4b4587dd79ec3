"""Classifiers go the way of detectors: trained, killed, resumed, distributed, and taken over."""

import csv
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from mvit_det import Classifier
from mvit_det.checkpoint import load_weights
from mvit_det.config import load_config
from tests.engine.trainings import ROOT, TOOL, differences, largest_difference, load

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
THIN = (
    "model.classifier.depths=[1,1]",
    "model.classifier.embed_dim=16",
    "model.classifier.init_std=0.1",
    "model.classifier.drop_path_rate=0.0",
    "model.classifier.pretrain_img_size=32",
    "dataloader.train.mapper.image_size=32",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "optimizer.lr=2e-3",
    "train.seed=1",
    "train.eval_period=0",
    "train.max_iter=24",
    "train.checkpointer.period=12",
    "dataloader.train.total_batch_size=12",
    "lr_multiplier.warmup_length=0.1",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = generator.normal(0, 25, (40, 48, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def start(folders, output, *arguments):
    flags = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    return subprocess.Popen(
        [sys.executable, TOOL, "--config-file", "configs/ImageNet/mvitv2_t.py", "--device", "cpu",
         "--train-folder", str(folders / "train"), "--val-folder", str(folders / "val"), *flags,
         f"train.output_dir={output}", *THIN, *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def run(folders, output, *arguments):
    process = start(folders, output, *arguments)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def trained(folders, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    run(folders, output, "train.ema.enabled=True")
    return output


def test_a_classifier_of_folders_is_trained_evaluated_and_used(folders, trained):
    with open(trained / "evaluation" / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert list(rows) == sorted(COLOURS)
    assert all(int(row["images"]) == 5 and float(row["top1"]) >= 80 for row in rows.values())
    assert (trained / "evaluation" / "confusion_matrix.png").exists()
    classifier = Classifier(trained / "config.yaml", trained / "model_final.pth", device="cpu")
    for name in COLOURS:
        assert classifier(folders / "val" / name / "0.png")[0].name == name
    assert load(trained)["class_names"] == sorted(COLOURS)


@pytest.mark.slow
def test_a_killed_training_resumes_bit_for_bit(folders, trained, tmp_path):
    process = start(folders, tmp_path, "train.ema.enabled=True")
    for line in process.stdout:
        if "model_0000012.pth" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run(folders, tmp_path, "--resume", "train.ema.enabled=True")
    assert differences(load(tmp_path), load(trained)) == []


@pytest.mark.slow
def test_two_ranks_train_as_one_does(folders, tmp_path):
    # Without mixing, which pairs images of a rank, and erasing, which is drawn per micro-batch.
    plain = [f"model.{name}=0.0" for name in ("mixup", "cutmix", "random_erasing")]
    # A larger eps keeps Adam from amplifying rounding errors of tiny gradients.
    plain += ["train.max_iter=3", "optimizer.eps=1e-3"]
    run(folders, tmp_path / "one", *plain)
    run(folders, tmp_path / "two", "--num-gpus", "2", *plain)
    one, two = (load(tmp_path / name)["model"] for name in ("one", "two"))
    assert largest_difference(one, two) < 1e-5


def test_a_detector_starts_from_the_blocks_of_a_classifier(trained):
    config = load_config(
        ROOT / "configs/COCO/mask_rcnn_mvitv2_t.py",
        [
            "model.backbone.bottom_up.depths=[1,1]",
            "model.backbone.bottom_up.embed_dim=16",
            "model.backbone.bottom_up.pretrain_img_size=32",
            "model.backbone.bottom_up.window_size=8",
            "model.backbone.bottom_up.out_features=[scale2,scale3]",
            "model.backbone.out_channels=16",
            "model.proposal_generator.in_features=[p2,p3]",
            "model.proposal_generator.anchor_generator.sizes=[[32],[64]]",
            "model.proposal_generator.anchor_generator.strides=[4,8]",
            "model.roi_heads.box_in_features=[p2,p3]",
            "model.roi_heads.box_pooler.scales=[0.25,0.125]",
        ],
    )
    model = instantiate(config.model)
    path = next(trained.glob("model_best.pth"), trained / "model_final.pth")
    report = load_weights(model, path, purpose="train")
    assert not report.errors
    weights = torch.load(path, weights_only=True)["model"]
    filled = model.backbone.bottom_up.state_dict()
    names = [name for name in filled if not name.startswith("scale")]
    assert len(names) > 20
    for name in names:
        assert torch.equal(filled[name], weights[f"classifier.{name}"]), name


@pytest.mark.slow
def test_weights_for_other_classes_get_a_new_head(folders, trained, tmp_path):
    for name in ("blue", "red"):
        for split in ("train", "val"):
            (tmp_path / "two" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "two" / split / name).symlink_to(folders / split / name)
    weights = f"train.init_checkpoint={trained / 'model_final.pth'}"
    printed = run(tmp_path / "two", tmp_path / "output", weights, "train.max_iter=1")
    assert "are for other classes" in printed
    state = load(tmp_path / "output")["model"]
    assert len(state["classifier.head.weight"]) == 2
