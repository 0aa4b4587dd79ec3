"""Whole trainings in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOL = "tools/lazyconfig_train_net.py"
CONFIG = "configs/shapes/mask_rcnn_mvitv2_pico.py"


class Run:
    """Starts trainings of the quick start's model on a dozen images of 64 pixels."""

    def __init__(self, datasets):
        self.datasets = datasets

    def start(self, output, *arguments, launcher=(), **environment):
        """A training that is going on; `arguments` are flags first, and then overrides."""
        flags = [argument for argument in arguments if "=" not in argument]
        overrides = [argument for argument in arguments if "=" in argument]
        environment = {
            **os.environ,
            "DETECTRON2_DATASETS": str(self.datasets),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        return subprocess.Popen(
            [sys.executable, *launcher, TOOL, "--config-file", CONFIG, "--device", "cpu"]
            + flags
            + [
                f"train.output_dir={output}",
                "train.max_iter=6",
                "train.checkpointer.period=2",
                "train.visualized_images=0",
                "train.ema.enabled=True",
                "lr_multiplier.warmup_length=0.5",
            ]
            + overrides,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C for a test must not reach the tests themselves.
            start_new_session=True,
        )

    def __call__(self, output, *arguments, check=True, **options):
        """A training that has ended: its exit code and what it printed."""
        process = self.start(output, *arguments, **options)
        printed, _ = process.communicate(timeout=240)
        assert process.returncode == 0 or not check, printed
        return process.returncode, printed

    def signal_at(self, number, moment, output, *arguments, **options):
        """Sends a signal once a line with `moment` was printed; exit code and what was printed."""
        process = self.start(output, *arguments, **options)
        printed = ""
        for line in process.stdout:
            printed += line
            if moment in line:
                process.send_signal(number)
                break
        else:
            pytest.fail(f"'{moment}' never came up:\n{printed}")
        rest, _ = process.communicate(timeout=120)
        return process.returncode, printed + rest


def read_until(moment, process):
    """The output of a process up to a line with `moment`."""
    printed = ""
    for line in process.stdout:
        printed += line
        if moment in line:
            return printed
    raise AssertionError(f"'{moment}' never came up:\n{printed}")


def children_of(process, word=""):
    """Processes that a process has started, perhaps those with a word in their command lines."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if word in " ".join(child.cmdline())]


def load(output, name="model_final"):
    """A checkpoint without the id of its run, which is random."""
    content = torch.load(output / f"{name}.pth", weights_only=True)
    content.pop("run", None)
    return content


def differences(first, second, place=""):
    """Where two checkpoints differ, in any bit."""
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [place]
        return [d for key in first for d in differences(first[key], second[key], f"{place}.{key}")]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [place]
    return [] if first == second else [place]


def largest_difference(first, second):
    """Of two states of a model, in any weight."""
    assert first.keys() == second.keys()
    return max((first[key] - second[key]).abs().max().item() for key in first)
