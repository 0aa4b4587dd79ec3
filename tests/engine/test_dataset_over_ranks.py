"""`mvit-det train --data` over ranks: a folder in YOLO's format, which is converted once."""

import json
import os
import signal
import subprocess
import sys

import pytest

from mvit_det.data.shapes import generate_shapes
from tests.engine.test_processes import TOLERANCE, TORCHRUN
from tests.engine.trainings import ROOT, children_of, largest_difference, load, read_until


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    """Eight images without a validation split, whose labels are boxes."""
    folder = tmp_path_factory.mktemp("parts")
    content = generate_shapes(folder / "shapes", 8, 64, 0, crowd_fraction=0)
    (folder / "shapes" / "images").rename(folder / "images")
    (folder / "labels").mkdir()
    numbers = {each["id"]: number for number, each in enumerate(content["categories"])}
    for image in content["images"]:
        lines = []
        for each in content["annotations"]:
            if each["image_id"] == image["id"]:
                x, y, width, height = (value / 64 for value in each["bbox"])
                box = (x + width / 2, y + height / 2, width, height)
                lines.append(" ".join(map(str, (numbers[each["category_id"]], *box))))
        label = (folder / "labels" / image["file_name"]).with_suffix(".txt")
        label.write_text("\n".join(lines))
    names = [each["name"] for each in content["categories"]]
    (folder / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    return folder


def start(data, output, *flags, launcher=()):
    command = ["-m", "mvit_det.cli", "train", "--data", data, "--device", "cpu", "--resume"]
    command += ["--config-file", "shapes/mask_rcnn_mvitv2_pico", "--batch-size", "4"]
    overrides = [f"train.output_dir={output}", "train.max_iter=4", "train.checkpointer.period=2"]
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, command), *flags, *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does_also_after_a_kill(yolo, tmp_path):
    alone = start(yolo, tmp_path / "one", "--grad-accum-steps", "2")
    printed, _ = alone.communicate(timeout=240)
    assert alone.returncode == 0, printed
    process = start(yolo, tmp_path / "two", launcher=(*TORCHRUN, "--max-restarts=1"))
    printed = read_until("Saved", process)
    assert printed.count("1 of 8 images were set aside") == 1
    children_of(process, "--data")[1].send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=240)
    assert process.returncode == 0, rest
    assert "Training from iteration 2 to 4" in rest
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert largest_difference(one["model"], two["model"]) < TOLERANCE
    for split, number in (("train", 7), ("val", 1)):
        (first,) = (tmp_path / "one").glob(f"datasets/*/{split}.json")
        (second,) = (tmp_path / "two").glob(f"datasets/*/{split}.json")
        assert first.read_bytes() == second.read_bytes()
        assert len(json.loads(first.read_text())["images"]) == number


@pytest.mark.slow
def test_a_missing_folder_ends_all_ranks_with_one_sentence(tmp_path):
    process = start(tmp_path / "nowhere", tmp_path / "out", launcher=TORCHRUN)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(set(errors)) == 1
    assert "nowhere" in errors[0]
    assert "mvit_det/config" not in printed  # no traceback of this package
