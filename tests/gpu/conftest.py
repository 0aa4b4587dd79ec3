"""Fixtures for the tests that need a GPU, which `make gpu` runs.

With MVIT_DET_GPU_TESTS_DEVICE=cpu they run on the CPU, as a rehearsal.
"""

import os

import pytest
import torch

from mvit_det.benchmarking.gpu import DEVICE_VARIABLE
from mvit_det.data import generate_shapes
from tests.engine.trainings import Run


@pytest.fixture(scope="session")
def device() -> str:
    """The device to test, or a skipped test."""
    name = os.environ.get(DEVICE_VARIABLE, "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device on this machine")
    return name


@pytest.fixture(scope="session")
def run(device: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Starts trainings on a dozen small images; they need '--device'."""
    datasets = tmp_path_factory.mktemp("few")
    generate_shapes(datasets / "shapes" / "train", 12, 64, seed=0, max_shapes=2)
    generate_shapes(datasets / "shapes" / "val", 3, 64, seed=1, max_shapes=2)
    return Run(datasets)
