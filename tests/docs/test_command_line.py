"""The commands of docs/command-line.md, and its list of commands."""

import json
import re
from pathlib import Path

import pytest

from mvit_det.cli.main import COMMANDS
from mvit_det.data.shapes import generate_shapes
from tests.data.conftest import write_yolo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def test_all_commands_are_listed():
    assert re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), re.M) == list(
        COMMANDS
    )


@pytest.mark.slow
def test_from_a_yolo_folder_to_predictions(run_page, tmp_path):
    content = generate_shapes(tmp_path / "shapes", 10, (64, 64), seed=0, crowd_fraction=0)
    write_yolo(content, tmp_path / "shapes" / "images", tmp_path / "parts")
    printed, models = run_page("command-line.md", tmp_path)
    assert "YOLO: train" in printed
    assert "1 of 10 images were set aside" in printed
    assert "Evaluation results for segm" in printed
    results = json.loads((tmp_path / "found" / "predictions.json").read_text())
    rows = (tmp_path / "found" / "predictions.csv").read_text().splitlines()
    assert len(rows) == len(results) + 1
    # The classes of YOLO, from 0.
    config = (tmp_path / "output" / "parts" / "config.yaml").read_text()
    assert re.search(r"category_ids: *\n? *\[?(- )?0", config)
    assert len(list((tmp_path / "found").glob("*.png"))) == 10
    assert "shapes/mask_rcnn_mvitv2_pico" in models
