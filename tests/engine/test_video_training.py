"""Video classifiers go the way of image classifiers: trained, resumed, distributed, evaluated."""

import csv
import os
import shutil
import subprocess
import sys

import cv2
import pytest

from mvit_det import VideoClassifier
from mvit_det.config import load_config
from mvit_det.config.image_folders import use_image_folders
from mvit_det.data.moving_shapes import MOTIONS, SIZE, generate_moving_shapes
from mvit_det.data.video_writer import VideoWriter
from mvit_det.data.videos import VideoReader
from mvit_det.engine import evaluate_checkpoint, train
from tests.data.test_videos import gestures  # noqa: F401
from tests.engine.trainings import ROOT, TOOL, differences, load

CONFIG = "configs/Kinetics/mvitv2_s.py"
QUICK_START = "configs/shapes/video_mvitv2_pico.py"
THIN = (
    "model.classifier.depths=[1,1]",
    "model.classifier.embed_dim=16",
    "model.classifier.init_std=0.08",
    "model.classifier.frames=4",
    "model.classifier.img_size=32",
    "dataloader.train.mapper.image_size=32",
    "dataloader.train.mapper.sampling.num_frames=4",
    "dataloader.test.mapper.short_side=32",
    "dataloader.test.mapper.clips=2",
    "dataloader.test.mapper.crops=3",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "dataloader.train.total_batch_size=4",
    "train.device=cpu",
    "train.seed=1",
    "train.eval_period=0",
    "train.max_iter=6",
    "train.checkpointer.period=3",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("motions")
    for seed, (split, count) in enumerate({"train": 20, "val": 10}.items()):
        generate_moving_shapes(root / split, count, 32, seed)
    return root


def make_config(clips, output, *overrides):
    return load_config(
        ROOT / CONFIG,
        [*THIN, f"data.train_folder={clips / 'train'}", f"data.val_folder={clips / 'val'}",
         f"train.output_dir={output}", *overrides],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    """A finished training with the whole recipe, and its metrics."""
    output = tmp_path_factory.mktemp("trained")
    config = make_config(clips, output)
    use_image_folders(config)
    return output, train(config)


def test_a_training_ends_with_metrics_and_reports(trained):
    output, metrics = trained
    assert set(metrics["classification"]) == {"top1", "top5"}
    with open(output / "evaluation" / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == sorted(MOTIONS)
    assert {row["images"] for row in rows} == {"1"}
    assert (output / "evaluation" / "worst_mistakes.png").is_file()
    assert load(output)["class_names"] == sorted(MOTIONS)


def test_a_resumed_training_is_bit_for_bit_the_same(trained, clips, tmp_path):
    output, _ = trained
    first = min(output.glob("model_0*.pth"))
    assert "3" in first.stem
    shutil.copy(first, tmp_path)
    config = make_config(clips, tmp_path)
    use_image_folders(config, resume=True)
    train(config, resume=True)
    assert differences(load(tmp_path), load(output)) == []


@pytest.mark.slow
def test_two_ranks_evaluate_as_one_does(trained, clips, tmp_path):
    output, _ = trained
    weights = f"train.init_checkpoint={output / 'model_final.pth'}"
    config = make_config(clips, tmp_path / "one", weights)
    use_image_folders(config, evaluate_only=True)
    evaluate_checkpoint(config)
    command = [sys.executable, TOOL, "--config-file", CONFIG, "--eval-only", "--num-gpus", "2"]
    command += ["--val-folder", str(clips / "val"), *THIN, weights]
    subprocess.run(
        [*command, f"train.output_dir={tmp_path / 'two'}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    one, two = (
        (tmp_path / name / "evaluation" / "accuracy.csv").read_text() for name in ("one", "two")
    )
    assert one == two


@pytest.mark.slow
def test_twenty_real_gestures_are_learned_by_heart(gestures, tmp_path):  # noqa: F811
    videos = sorted(gestures.glob("*.mkv"))
    for video in videos:
        # Squares as those of the evaluation: decoding the originals takes most of the time.
        copy = tmp_path / f"{video.stem}.mp4"
        with VideoReader(video) as reader, VideoWriter(copy, reader.rate) as writer:
            for frame in reader:
                writer.write(cv2.resize(frame[:, 80:560], (48, 48)))
    lists = {tmp_path / "originals.csv": videos, tmp_path / "copies.csv": tmp_path.glob("*.mp4")}
    for path, files in lists.items():
        path.write_text("\n".join(f"{file} {file.stem}" for file in sorted(files)))
    config = load_config(
        ROOT / CONFIG,
        [*THIN, f"train.output_dir={tmp_path / 'output'}", "train.max_iter=100",
         f"data.train_folder={tmp_path / 'copies.csv'}",
         f"data.val_folder={tmp_path / 'originals.csv'}",
         "model.classifier.embed_dim=32", "model.classifier.frames=8",
         "model.classifier.img_size=48", "model.classifier.drop_path_rate=0.0",
         "model.classifier.dropout=0.0", "model.mixup=0.0", "model.cutmix=0.0",
         "model.random_erasing=0.0", "dataloader.train.mapper.image_size=48",
         "dataloader.train.mapper.scale=[0.9,1.0]",
         "dataloader.train.mapper.flip=0.0", "model.label_smoothing=0.0",
         "dataloader.train.mapper.augment=null", "dataloader.train.mapper.repeats=1",
         "dataloader.train.mapper.sampling={num_frames: 8, step: 8}",
         "dataloader.test.mapper.short_side=48", "dataloader.test.mapper.crops=1",
         "dataloader.train.total_batch_size=20", "optimizer.lr=1e-3"],
    )  # fmt: skip
    use_image_folders(config)
    assert train(config)["classification"]["top1"] == 100
    classifier = VideoClassifier(config, tmp_path / "output/model_final.pth", device="cpu")
    for video in videos[::7]:
        assert classifier(video)[0].classes[0].name == video.stem


@pytest.mark.slow
def test_the_quick_start_learns_motions_and_not_frames(tmp_path):
    for seed, (split, count) in enumerate({"train": 2000, "val": 200}.items()):
        generate_moving_shapes(tmp_path / split, count, SIZE, seed)
    config = load_config(
        ROOT / QUICK_START,
        [f"data.train_folder={tmp_path / 'train'}", f"data.val_folder={tmp_path / 'val'}",
         f"train.output_dir={tmp_path / 'output'}", "train.device=cpu", "train.max_iter=250",
         "dataloader.train.num_workers=0"],
    )  # fmt: skip
    use_image_folders(config)
    assert train(config)["classification"]["top1"] >= 40
    config.train.init_checkpoint = str(tmp_path / "output/model_final.pth")
    config.train.output_dir = str(tmp_path / "shuffled")
    config.dataloader.test.mapper.shuffle_frames = True
    assert evaluate_checkpoint(config)["classification"]["top1"] <= 20
