"""Trainings over two processes, with gloo on the CPU."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.checkpoint_memory import MODEL_MB
from tests.engine.shared_regression import train
from tests.engine.trainings import (
    ROOT,
    children_of,
    differences,
    largest_difference,
    load,
    read_until,
)

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
LAUNCHER = ("--num-gpus", "2", "--dist-url", "auto")
# Sums of two halves round differently than sums of a whole; AdamW's first steps, which are as
# large for a tiny gradient as for a large one, magnify that.
TOLERANCE = 1e-5
STEPS = "train.max_iter=4"


def run_script(name, *arguments, launcher=TORCHRUN):
    """Runs a module of this folder; its exit code and its output."""
    process = subprocess.run(
        [sys.executable, *launcher, "-m", f"tests.engine.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return process.returncode, process.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "code"), [("succeeds", 0), ("fails", 1)])
@pytest.mark.parametrize("launcher", ["torchrun", "detectron2"])
def test_no_thread_outlives_the_process_group(launcher, ending, code):
    """A thread of gloo that frees a tensor while Python shuts down aborts the process."""
    if launcher == "torchrun":
        returned, printed = run_script("leave_process_group", ending)
    else:
        returned, printed = run_script("leave_process_group", ending, "2", launcher=())
    assert returned == code, printed
    # The launcher ends the rank that fails last before it comes to print.
    assert printed.count("gloo threads: ") >= 2 - code
    assert printed.count("gloo threads: []") == printed.count("gloo threads: "), printed


@pytest.mark.slow
def test_the_full_state_of_a_sharded_training_is_in_the_main_process_alone(tmp_path):
    """With sharded checkpoints it is nowhere. The state is four times the size of the model."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of memory is measured on Linux only")
    code, printed = run_script("checkpoint_memory", str(tmp_path))
    assert code == 0, printed
    main, other = (json.loads((tmp_path / f"rank_{n}.json").read_text()) for n in range(2))
    print(f"growth of memory in MB: main process {main}, other rank {other}")
    assert main["file"]["save"] > 3.5 * MODEL_MB
    assert other["file"]["save"] < 2 * MODEL_MB
    assert other["file"]["load"] < MODEL_MB
    for rank in (main, other):
        assert rank["shards"]["save"] < MODEL_MB
        assert rank["shards"]["load"] < MODEL_MB


def start_regression(launcher, *arguments):
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tests.engine.shared_regression", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(
    ("parallel", "grad_accum_steps"),
    [("ddp", 2), pytest.param("fsdp", 2, marks=pytest.mark.slow)],
)
def test_two_processes_train_as_one_does_with_the_whole_batch(parallel, grad_accum_steps, tmp_path):
    train(tmp_path / "one", 1)
    process = start_regression(TORCHRUN, tmp_path / "two", str(grad_accum_steps), parallel)
    assert process.wait(timeout=120) == 0
    one, two = load(tmp_path / "one", "model"), load(tmp_path / "two", "model")
    assert largest_difference(one["model"], two["model"]) < TOLERANCE


@pytest.mark.slow
def test_two_machines_train_as_one_does(tmp_path):
    """Two of torchrun's agents, as on two machines, that meet at an address."""
    train(tmp_path / "one", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    machine = (
        *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={address}"),
    )
    processes = [start_regression(machine, tmp_path / "two", "1") for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = load(tmp_path / "one", "model"), load(tmp_path / "two", "model")
    assert largest_difference(one["model"], two["model"]) < TOLERANCE


@pytest.fixture(scope="module")
def one_process(run, tmp_path_factory):
    """A detector, trained by one process in two parts per batch."""
    output = tmp_path_factory.mktemp("one")
    run(output, "--grad-accum-steps", "2", STEPS)
    return output


@pytest.mark.slow
def test_a_detector_trained_by_two_processes(run, one_process, tmp_path):
    """Equals the one that one process trains in two parts: all that is random is the same.

    And torchrun's processes do the very same as those of Detectron2's launcher, even if one of
    them dies and torchrun starts them again.
    """
    _, evaluated = run(tmp_path / "launch", *LAUNCHER, STEPS)
    elastic = (*TORCHRUN, "--max-restarts=1")
    process = run.start(tmp_path / "torchrun", "--resume", STEPS, launcher=elastic)
    printed = read_until("Saved", process)
    children_of(process, "--config-file")[1].send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert "Training from iteration 0 to 4" in printed
    assert "Training from iteration 2 to 4" in rest

    launched, restarted = load(tmp_path / "launch"), load(tmp_path / "torchrun")
    assert differences(launched, restarted) == []
    alone = load(one_process)
    assert largest_difference(launched["model"], alone["model"]) < TOLERANCE
    # The images are shared among the processes, and each is evaluated once.
    assert "Saved the predictions on 3 images" in evaluated


@pytest.mark.slow
def test_a_sharded_training_goes_on_in_one_piece_and_the_other_way_round(
    run, one_process, tmp_path
):
    """Checkpoints do not depend on the number of ranks that write or read them."""
    shutil.copy(one_process / "model_0000002.pth", tmp_path)
    sharded = (*LAUNCHER, "train.strategy=fsdp", "train.checkpointer.period=1")
    run(tmp_path, *sharded, "--resume", STEPS)
    expected, written = load(one_process), load(tmp_path)
    assert largest_difference(written["model"], expected["model"]) < TOLERANCE

    for name in ("last_checkpoint", "model_final.pth", "model_0000002.pth"):
        (tmp_path / name).unlink()
    checkpoint = load(tmp_path, "model_0000003")
    assert checkpoint.keys() == expected.keys()
    run(tmp_path, "--resume", "--grad-accum-steps", "2", STEPS)
    found = load(tmp_path)
    assert found["iteration"] == 3
    assert largest_difference(found["model"], expected["model"]) < TOLERANCE
    averages = [content["trainer"]["hooks"]["ModelEMA"]["average"] for content in (found, expected)]
    assert largest_difference(*averages) < TOLERANCE
    assert found["trainer"]["optimizer"].keys() == expected["trainer"]["optimizer"].keys()


@pytest.mark.slow
def test_a_dying_process_ends_all_with_one_sentence(run, tmp_path):
    process = run.start(tmp_path, *LAUNCHER, "train.max_iter=100000")
    read_until("Saved", process)
    children = children_of(process, "spawn_main")
    assert len(children) == 2
    children[1].send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert not any(child.is_running() for child in children)
    last = rest.strip().splitlines()[-1]
    assert last.startswith("error: process ")
    assert "was ended by SIGKILL, and the others were stopped" in last


@pytest.mark.slow
def test_a_signal_stops_all_processes_with_one_checkpoint(run, tmp_path):
    code, printed = run.signal_at(
        signal.SIGTERM, "Saved", tmp_path, *LAUNCHER, "train.max_iter=100000"
    )
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in printed
    last = load(tmp_path, (tmp_path / "last_checkpoint").read_text().removesuffix(".pth"))
    assert f"stopped by SIGTERM after iteration {last['iteration'] + 1}" in printed


@pytest.mark.slow
def test_a_signal_to_one_of_several_processes_stops_all(run, tmp_path):
    """As where one of several machines is taken away."""
    process = run.start(tmp_path, *LAUNCHER, "train.max_iter=100000")
    read_until("Saved", process)
    children_of(process, "spawn_main")[1].send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in printed
    assert "Training stopped by SIGTERM after iteration" in printed


@pytest.mark.slow
def test_a_mistake_is_said_once_by_each_process_and_without_a_traceback(run, tmp_path):
    code, printed = run(tmp_path, *LAUNCHER, "train.grad_accum_steps=3", check=False)
    assert code == 1
    assert "Traceback" not in printed
    assert "error: a batch of 4 images cannot be split evenly among 2 process(es)" in printed
