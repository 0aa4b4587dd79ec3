"""The commands of docs/reliability.md, and its statements about tests."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from mvit_det.data import generate_shapes
from mvit_det.data.validation import MAX_OBJECTS
from tests.data import test_bad_input
from tests.engine import test_bad_training, test_processes

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_reliability(run_page, tmp_path):
    for split, number in (("train", 8), ("val", 2)):
        generate_shapes(tmp_path / "shapes" / split, number, 64, seed=0)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with open(tmp_path / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py", "a") as config:
        config.write("\ntrain.max_iter = 2\ntrain.visualized_images = 0\n")
    (printed,) = run_page("reliability.md", tmp_path, DETECTRON2_DATASETS=str(tmp_path))
    assert "Training from iteration 0 to 2" in printed
    checkpoint = tmp_path / "output" / "reliable" / "model_final.pth"
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 1


def test_numbers_are_those_of_the_tests():
    cases = [*test_bad_input.CASES, *test_bad_training.CASES]
    assert f"\n{len(cases)} cases of bad or odd input are tried" in PAGE
    assert f"up to {MAX_OBJECTS}\nobjects" in PAGE
    tolerances = set(re.findall(r"each weight to (\S+)", PAGE))
    assert {float(tolerance) for tolerance in tolerances} == {test_processes.TOLERANCE}


def test_tests_that_are_named_exist():
    names = set(re.findall(r"`(\w+/test_\w+\.py)`", PAGE))
    assert len(names) > 5
    for name in names:
        assert (ROOT / "tests" / name).is_file(), name
