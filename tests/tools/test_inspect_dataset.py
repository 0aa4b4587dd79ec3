"""The script that says what is wrong with a dataset, and what is in it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvit_det.data import generate_shapes

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "inspect_dataset.py"


@pytest.fixture
def shapes(tmp_path):
    generate_shapes(tmp_path / "shapes", 3, (64, 96), seed=0, crowd_fraction=0)
    return tmp_path / "shapes"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the script in this process; returns its exit code and what it printed."""
    spec = importlib.util.spec_from_file_location("inspect_dataset", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["inspect_dataset.py", *map(str, arguments)])
        return module.main(), capsys.readouterr().out

    return run


def test_a_good_dataset(run, shapes, tmp_path):
    output = tmp_path / "output"
    code, printed = run(
        shapes / "annotations.json", "--images", shapes / "images", "--output", output
    )
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "no issues"
    assert "3 images (0 without objects), " in printed
    assert lines[-1] == f"Wrote {output / 'contact_grid.png'}"
    grid = np.asarray(Image.open(output / "contact_grid.png"))
    # Three panels of 320 pixels beside each other, with gaps and a title.
    assert grid.shape == (28 + round(320 * 64 / 96) + 2 * 12, 3 * 320 + 4 * 12, 3)


def test_errors_come_first_and_there_is_no_grid(run, shapes, tmp_path):
    path = shapes / "annotations.json"
    dataset = json.loads(path.read_text())
    dataset["annotations"][1]["category_id"] = 77
    dataset["images"][0]["file_name"] = "../000001.png"
    path.write_text(json.dumps(dataset))
    code, printed = run(path, "--images", shapes / "images", "--output", tmp_path / "output")
    assert code == 1
    assert printed.startswith("error: ")
    assert "error: object of an unknown category: 1 (annotation 2: category 77)" in printed
    assert "error: image outside of the folder of images: 1 ('../000001.png')" in printed
    assert "3 images (" in printed
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_mistakes_get_one_sentence(shapes, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, shapes / "annotations.json", "--images", tmp_path / "nowhere"],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: there is no folder of images '{tmp_path}/nowhere'; check --images\n"
    )
