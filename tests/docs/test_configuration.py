"""The page on configuration: its tables, its message and its commands."""

import re
from pathlib import Path

import pytest

from mvit_det.config import load_config
from mvit_det.config.tables import tables, updated
from mvit_det.data.shapes import generate_shapes
from mvit_det.errors import ConfigError
from mvit_det.model_zoo import configs_folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_tables_are_those_of_the_schema():
    """After a change: python -m mvit_det.config.tables docs/configuration.md."""
    text = PAGE.read_text(encoding="utf-8")
    assert updated(text) == text
    for entry, table in tables(
        load_config(configs_folder() / "COCO/mask_rcnn_mvitv2_t.py")
    ).items():
        assert table in text, entry


@pytest.mark.slow
def test_everything_on_the_page_runs(run_page, tmp_path, capsys):
    # Few images, to evaluate them quickly.
    for seed, (split, count) in enumerate({"train": 16, "val": 4}.items()):
        generate_shapes(tmp_path / "datasets" / "shapes" / split, count, 128, seed)
    (trained, _) = run_page(PAGE.name, tmp_path, DETECTRON2_DATASETS=str(tmp_path / "datasets"))
    assert "Outputs are in output/short" in trained
    assert "0.0005 0.1\n" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "output" / "short").rglob("*")}
    text = PAGE.read_text(encoding="utf-8").partition("## Output files")[2]
    named = {name.rpartition("/")[2] for name in re.findall(r"^\| `([^`*]+)` \|", text, re.M)}
    # The commands of the page turn the grid off.
    assert named - written == {"predictions.png"}


def test_the_message_on_the_page_is_that_of_the_program():
    path = configs_folder() / "shapes" / "mask_rcnn_mvitv2_pico.py"
    with pytest.raises(ConfigError) as raised:
        load_config(path, ["train.max_iters=7", "optimizer.lr=high"])
    assert f"```text\nerror: {raised.value}\n```" in PAGE.read_text(encoding="utf-8")
