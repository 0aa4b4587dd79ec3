"""Whole runs of the training tool, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvit_det.cli import train
from mvit_det.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PICO = "configs/shapes/mask_rcnn_mvitv2_pico.py"
# Images of about 100 pixels, and few regions, so that a training on the CPU takes seconds.
SMALL = [
    "dataloader.train.mapper.augmentations.0.prob=0",
    "dataloader.train.mapper.augmentations.1.short_edge_length=[96]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=96",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.proposal_generator.post_nms_topk=[50,20]",
    "model.roi_heads.batch_size_per_image=16",
    "train.init_checkpoint=''",
    "train.seed=0",
    "train.log_period=1",
]


def run_tool(*arguments, datasets, check=True, **environment):
    """Runs the tool with datasets from a folder, and returns the finished process."""
    process = subprocess.run(
        [sys.executable, "tools/lazyconfig_train_net.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "DETECTRON2_DATASETS": str(datasets), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0 or not check, process.stdout
    return process


@pytest.fixture(scope="module")
def small_coco(coco_sample, tmp_path_factory):
    """The first six real images of each split, in Detectron2's layout."""
    root = tmp_path_factory.mktemp("small")
    (root / "coco" / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        name = f"instances_{split}.json"
        dataset = json.loads((coco_sample / "coco" / "annotations" / name).read_text())
        dataset["images"] = dataset["images"][:6]
        kept = {image["id"] for image in dataset["images"]}
        dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] in kept]
        (root / "coco" / "annotations" / name).write_text(json.dumps(dataset))
        (root / "coco" / split).symlink_to((coco_sample / "coco" / split).absolute())
    return root


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["mask_rcnn", "cascade_mask_rcnn"])
def test_trains_and_evaluates_on_real_images(detector, small_coco, tmp_path):
    config = ("--config-file", f"configs/COCO/{detector}_mvitv2_t.py", "--device", "cpu")
    options = (*SMALL, f"train.output_dir={tmp_path}")

    first = run_tool(*config, *options, "train.max_iter=2", datasets=small_coco)
    losses = [line["total_loss"] for line in metrics(tmp_path) if "total_loss" in line]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    checkpoint = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert checkpoint["iteration"] == 1
    assert "Evaluation results for bbox" in first.stdout
    assert "Evaluation results for segm" in first.stdout
    assert (tmp_path / "evaluation" / "predictions.png").stat().st_size > 10_000

    results = tmp_path / "evaluation" / "coco_instances_results.json"
    at_the_end = json.loads(results.read_text())
    results.unlink()
    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    evaluated = run_tool(*config, "--eval-only", *options, weights, datasets=small_coco)
    assert "Evaluation results for segm" in evaluated.stdout
    assert "|  AP   |  AP50  |" in evaluated.stdout
    assert json.loads(results.read_text()) == at_the_end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        pytest.param(
            ["--config-file", "mask_rcnn_mvitv2_t"],
            "instances_train2017.json",
            marks=pytest.mark.slow,
        ),
        (["--config-file", PICO, "train.init_checkpoint=nowhere.pth"], "'nowhere.pth'"),
    ],
)
def test_mistakes_get_one_sentence_and_no_traceback(arguments, value, tmp_path):
    output = f"train.output_dir={tmp_path}/jürgen's (1), a=b"
    process = run_tool("--device", "cpu", *arguments, output, datasets=tmp_path, check=False)
    assert process.returncode == 1
    *_, last = process.stdout.splitlines()
    assert last.startswith("error: ")
    assert value in last
    assert "Traceback" not in process.stdout


def test_flags_and_overrides_can_be_mixed():
    arguments = train.parse_arguments(
        ["a.b=1", "--config-file", "x.py", "+c=2", "--epochs", "3", "d=[e,f]", "--accumulate=4"]
    )
    assert arguments.opts == ["a.b=1", "+c=2", "d=[e,f]"]
    assert (arguments.config_file, arguments.epochs) == ("x.py", 3)
    assert arguments.grad_accum_steps == 4


def test_a_missing_config_file_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parse_arguments(["train.max_iter=1"])
    assert "--config-file" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["nowhere.py", "--epochs=1e300"], "--epochs"),
        (["nowhere.py", "--batch-size=-1"], "--batch-size"),
        (["nowhere.py", "--grad-accum-steps=0"], "--grad-accum-steps"),
        (["nowhere.py"], "nowhere.py"),
        ([PICO, "--train-json", "a.json"], "--epochs 12"),
        ([PICO, "--epochs", "2", "train.max_iter=4"], "--epochs and train.max_iter"),
        ([PICO, "--device", "cpu", "train.device=cuda"], "--device and train.device"),
    ],
)
def test_mistakes_that_are_found_before_anything_is_written(arguments, value):
    with pytest.raises(ConfigError, match=value):
        train.run(train.parse_arguments(["--config-file", *arguments]))
