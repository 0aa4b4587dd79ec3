"""Which files a training and an evaluation may write to a folder that holds a training."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvit_det.cli import train
from mvit_det.errors import CheckpointError, TrainingError

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    """The output folder of a training."""
    (tmp_path / "config.yaml").write_text("of the training")
    (tmp_path / "log.txt").write_text("of the training")
    return tmp_path


@pytest.fixture
def loggers():
    """Loggers are the same after the test as before."""
    changed = [logging.getLogger(name) for name in ("detectron2", "fvcore", "mvit_det")]
    before = [(each.handlers.copy(), each.propagate, each.level) for each in changed]
    yield
    for each, (each.handlers, each.propagate, level) in zip(changed, before):
        each.setLevel(level)


def run(folder, *arguments):
    arguments = ["--config-file", "shapes/mask_rcnn_mvitv2_pico", "--device=cpu", *arguments]
    train.run(train.parse_arguments([*arguments, f"train.output_dir={folder}"]))


def test_a_refused_training_changes_nothing(folder, shapes_root):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(TrainingError, match=str(folder)):
            run(folder, "train.max_iter=1")
    assert {name: (folder / name).read_bytes() for name in before} == before


@pytest.mark.usefixtures("loggers")
def test_an_evaluation_keeps_the_config_and_the_log_of_the_training(folder, shapes_root):
    with pytest.raises(CheckpointError, match="nowhere.pth"):
        run(folder, "--eval-only", "train.init_checkpoint=nowhere.pth")
    for name in ("config.yaml", "log.txt"):
        assert (folder / name).read_text() == "of the training"
    assert "nowhere.pth" in (folder / "evaluation" / "config.yaml").read_text()
    assert "nowhere.pth" in (folder / "evaluation" / "log.txt").read_text()


@pytest.mark.usefixtures("loggers")
def test_the_log_takes_paths_that_are_no_utf8(tmp_path, shapes_root, capsys):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with pytest.raises(CheckpointError):
        run(folder, "--eval-only", "train.init_checkpoint=\udcff.pth")
    logging.getLogger("mvit_det").warning("in %s", folder)
    logging.getLogger("detectron2").warning("in %s", folder)
    log = Path(folder, "evaluation", "log.txt").read_text(encoding="utf-8")
    assert log.count(rf"in {tmp_path}/\udcff") == 2
    assert "Logging error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--num-gpus=0"], "--num-gpus: must be at least 1, not 0"),
        (["--num-machines=-1"], "--num-machines: must be at least 1, not -1"),
        (["--machine-rank=1"], "--machine-rank: must be from 0 to 0"),
        (["--num-machines=2", "--machine-rank=-1"], "not -1"),
        (["--dist-url=nonsense"], "'nonsense'"),
    ],
)
def test_impossible_ranks_are_refused(arguments, named, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.parse_arguments(["--config-file", "x.py", *arguments])
    assert named in capsys.readouterr().err


def test_an_evaluation_takes_the_last_checkpoint_or_weights(capsys):
    arguments = ["--config-file=mask_rcnn_mvitv2_t", "--resume"]
    assert train.parse_arguments(arguments, evaluate_only=True).resume
    with pytest.raises(SystemExit, match="2"):
        train.parse_arguments([*arguments, "--weights=a.pth"], evaluate_only=True)
    assert "--weights: not allowed with argument --resume" in capsys.readouterr().err
