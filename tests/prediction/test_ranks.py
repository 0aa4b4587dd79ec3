"""Prediction over ranks: shares, kills, restarts, and one file that equals a single process's."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from PIL import Image

from mvit_det.checkpoint import Checkpointer
from mvit_det.cli.main import command
from mvit_det.config import load_config
from mvit_det.data.images import read_image
from mvit_det.errors import ConfigError
from mvit_det.prediction import Prediction
from mvit_det.prediction.ranks import Rank
from tests.engine.trainings import ROOT
from tests.prediction.test_sharing import noise

NUMBER = 16
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a detector and images, one of which is no image."""
    folder = tmp_path_factory.mktemp("files")
    config = load_config("shapes/mask_rcnn_mvitv2_pico")
    torch.manual_seed(0)
    Checkpointer(instantiate(config.model), folder).save("model_final")
    LazyConfig.save(config, str(folder / "config.yaml"))
    (folder / "photos").mkdir()
    for index in range(NUMBER):
        image = noise()[: 48 + index % 3]
        Image.fromarray(image // (1 + index % 5)).save(folder / "photos" / f"{index:03}.png")
    (folder / "photos" / "005.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def expected(files):
    """The results of a single process."""
    assert predict(files, files / "expected") == 1
    return results(files / "expected")


def arguments(files, output):
    flags = ["--config-file", "config.yaml", "--weights", "model_final.pth", "--input", "photos"]
    flags += ["--output", output, "--device", "cpu", "--confidence-threshold", "0.15", "--csv"]
    return [str(flag) for flag in flags]


def predict(files, output, *more):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        return command("predict")([*arguments(files, output), *more])


def start(files, output, *launcher):
    return subprocess.Popen(
        [sys.executable, *launcher, ROOT / "tools/demo.py", *arguments(files, output)],
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results(output):
    """All result files, and the names in the folder."""
    table = (output / "predictions.csv").read_text()
    names = sorted(path.name for path in output.iterdir())
    return json.loads((output / "predictions.json").read_text()), table, names


def kill_rank_1(process, output):
    """With SIGKILL, when it has done a few of its inputs; returns how many."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in output.glob("*.partial-*/rank-1.jsonl"):
            done = path.read_bytes().count(b'{"source"')
            if done >= 2:
                for child in psutil.Process(process.pid).children(recursive=True):
                    if child.environ().get("RANK") == "1":
                        child.send_signal(signal.SIGKILL)
                        return done
        time.sleep(0.005)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_goes_on(files, expected, tmp_path):
    process = start(files, tmp_path / "out", *TORCHRUN, "--max-restarts=1")
    done = kill_rank_1(process, tmp_path / "out")
    assert done < NUMBER // 2
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "inputs were done before an interruption" in printed
    assert results(tmp_path / "out") == expected
    assert len(expected[0]) > NUMBER


@pytest.mark.slow
def test_a_later_call_goes_on_with_another_number_of_ranks(files, expected, tmp_path, capsys):
    process = start(files, tmp_path / "out", *TORCHRUN)
    kill_rank_1(process, tmp_path / "out")
    printed, _ = process.communicate(timeout=240)
    assert process.returncode != 0, printed
    assert not (tmp_path / "out" / "predictions.json").exists()
    assert predict(files, tmp_path / "out") == 1
    assert " inputs were done before an interruption" in capsys.readouterr().out
    assert results(tmp_path / "out") == expected


def test_the_rank_that_finishes_last_writes_the_results(
    files, expected, tmp_path, monkeypatch, capsys
):
    """As `srun` starts them: nothing but variables connects the processes."""
    for name, value in [("STEP_NUM_TASKS", "3"), ("LOCALID", "0"), ("NTASKS", "99")]:
        monkeypatch.setenv(f"SLURM_{name}", value)
    numbers = []
    for index in (2, 0, 1):
        assert not (tmp_path / "predictions.json").exists()
        monkeypatch.setenv("SLURM_PROCID", str(index))
        assert predict(files, tmp_path) == 0
        printed = capsys.readouterr()
        assert printed.out.startswith(f"Rank {index} of 3: Found ")
        numbers.append(int(printed.out.split(" images")[0].split()[-1]))
        assert ("005.png" in printed.err) == (index == 2)
    assert numbers == [4, 6, 5]
    assert results(tmp_path) == expected


@pytest.fixture
def interrupt(files, monkeypatch):
    """Predicts until Ctrl-C comes at the sixth image that is drawn."""

    def run(output):
        draw, drawn = Prediction.draw, []

        def interrupted(self):
            drawn.append(None)
            if len(drawn) == 6:
                raise KeyboardInterrupt
            return draw(self)

        with monkeypatch.context() as patch:
            patch.setattr(Prediction, "draw", interrupted)
            assert predict(files, output) == 130

    return run


def test_an_interrupted_call_goes_on(files, expected, interrupt, tmp_path, capsys):
    interrupt(tmp_path)
    partly = json.loads((tmp_path / "predictions.json").read_text())
    assert partly == [each for each in expected[0] if each["image_id"] < 6]
    (partial,) = tmp_path.glob("predictions.partial-*")
    # As a kill in the middle of a line leaves it.
    with open(partial / "rank-0.jsonl", "ab") as file:
        file.write(b'{"results": []}\n{"source": "photos/0')
    assert predict(files, tmp_path) == 1
    assert f"6 of {NUMBER} inputs were done before an interruption" in capsys.readouterr().out
    assert results(tmp_path) == expected
    for name in ("000.png", "015.png"):
        assert (read_image(tmp_path / name) == read_image(files / "expected" / name)).all()


def test_a_call_with_other_settings_starts_from_the_beginning(
    files, expected, interrupt, tmp_path, capsys
):
    """Its drawn images replace those of the interrupted call, which cannot go on afterwards."""
    interrupt(tmp_path)
    assert predict(files, tmp_path, "--confidence-threshold", "0.9") == 1
    assert json.loads((tmp_path / "predictions.json").read_text()) == []
    assert "interruption" not in capsys.readouterr().out
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
def test_two_processes_do_not_write_one_file(files, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    output = tmp_path / "out"
    process = start(files, output)
    while not (found := list(output.glob("*.partial-*/rank-0.jsonl"))):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    try:
        with open(found[0], "ab") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert predict(files, output) == 2
        assert predict(files, output, "--confidence-threshold", "0.9") == 2
    finally:
        process.kill()
        process.communicate()


def test_a_list_of_inputs(files, tmp_path, capsys):
    names = "photos/003.png\n\nphotos/001.png\n"
    (files / "list.txt").write_text(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        flags = arguments(files, tmp_path)
        flags[flags.index("--input")] = "--input-list"
        flags[flags.index("photos")] = "list.txt"
        assert command("predict")(flags) == 0
        assert "in 2 images" in capsys.readouterr().out
        found = results(tmp_path)
        assert command("predict")([*flags, "--no-drawings", "--output", str(tmp_path / "b")]) == 0
        assert results(tmp_path / "b")[:2] == found[:2]
        assert sorted(path.suffix for path in (tmp_path / "b").iterdir()) == [".csv", ".json"]
        flags = flags[: flags.index("--csv")]
        (files / "list.txt").write_text("photos/003.png")
        assert command("predict")([*flags, "--no-drawings", "--output", "x.png"]) == 2
        assert "'x.png'" in capsys.readouterr().err
        (files / "list.txt").write_text("\n")
        assert command("predict")(flags) == 2
        assert "'list.txt' is empty" in capsys.readouterr().err


def test_ranks_of_torchrun_and_slurm():
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2"}
    # The variables of a batch script, which runs once.
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    assert Rank.from_environment(torchrun) == Rank(3, 4, 1)
    assert Rank.from_environment(srun) == Rank(5, 8, 2)
    assert Rank.from_environment({**srun, **torchrun}) == Rank(3, 4, 1)
    assert Rank.from_environment(batch) == Rank.from_environment({}) == Rank()
    assert Rank(1, 3).share(range(8)) == range(1, 8, 3)
    assert Rank(1, 3).device("cpu") == "cpu"
    for wrong in ({"RANK": "4"}, {"WORLD_SIZE": "two"}):
        with pytest.raises(ConfigError, match=next(iter(wrong.values()))):
            Rank.from_environment({**torchrun, **wrong})
