"""Fixtures for whole trainings."""

import pytest

from mvit_det.data import generate_shapes
from tests.engine.trainings import Run, load


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Starts trainings on a dozen small images."""
    datasets = tmp_path_factory.mktemp("few")
    generate_shapes(datasets / "shapes" / "train", 12, 64, seed=0, max_shapes=2)
    generate_shapes(datasets / "shapes" / "val", 3, 64, seed=1, max_shapes=2)
    return Run(datasets)


@pytest.fixture(scope="session")
def unbroken(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The last checkpoint of a training that nothing happened to."""
    output = tmp_path_factory.mktemp("unbroken")
    run(output)
    return load(output)
