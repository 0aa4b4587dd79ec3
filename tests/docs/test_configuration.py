"""The page on configuration: all fields, their defaults, and nothing else."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import ListConfig, OmegaConf

from mvit_det.config import load_config
from mvit_det.config.schema import FIELDS
from mvit_det.config.validation import find_unknown
from mvit_det.data.shapes import generate_shapes
from mvit_det.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"
# | `field` | value | `default` | meaning |
ROW = re.compile(r"^\| `([a-z_.0-9]+)` \| ([^|]+) \| `([^`]+)` \| [^|]+ \|$", re.M)


def rows():
    """Field, value and default of each row of the tables of fields."""
    return [
        (field, value, ast.literal_eval(default))
        for field, value, default in ROW.findall(PAGE.read_text(encoding="utf-8"))
    ]


def default_of(config, path):
    """What a config says, or the default of the argument that it leaves out."""
    group, _, name = path.rpartition(".")
    node = OmegaConf.select(config, group)
    if name in node:
        value = node[name]
        return OmegaConf.to_container(value) if isinstance(value, ListConfig) else value
    for parent in inspect.getmro(node["_target_"]):
        parameters = inspect.signature(parent.__init__).parameters
        if name in parameters:
            return parameters[name].default
    raise AssertionError(f"{path} is no argument")


def test_the_tables_name_all_described_fields_once():
    named = [field for field, _, _ in rows()]
    assert len(named) == len(set(named))
    assert {field for field in named if field.startswith(("train.", "data."))} == set(FIELDS)


def test_values_are_those_that_are_accepted():
    assert {field: value for field, value, _ in rows() if field in FIELDS} == {
        field: str(description) for field, description in FIELDS.items()
    }


@pytest.mark.parametrize(("entry", "file"), [("train", "train.py"), ("data", "data/coco.py")])
def test_defaults_are_those_of_the_common_files(entry, file):
    config = LazyConfig.load(str(ROOT / "configs" / "common" / file))
    told = {field: default for field, _, default in rows() if field.startswith(f"{entry}.")}
    assert told == {field: default_of(config, field) for field in told}


@pytest.mark.parametrize("entry", ["dataloader", "optimizer", "lr_multiplier", "model"])
def test_other_defaults_are_those_of_the_config(entry):
    config = load_config(ROOT / "configs" / "COCO" / "mask_rcnn_mvitv2_t.py")
    told = {field: default for field, _, default in rows() if field.startswith(f"{entry}.")}
    assert len(told) >= 5
    for field, default in told.items():
        assert find_unknown(config, field) is None
        expected = default_of(config, field)
        assert type(default) is type(expected), field
        is_number = isinstance(default, float) or field.endswith("scheduler.values")
        assert default == (pytest.approx(expected, rel=1e-3) if is_number else expected), field


def test_everything_on_the_page_runs(run_page, tmp_path, capsys):
    # Few images, to be done with evaluating them.
    for seed, (split, count) in enumerate({"train": 16, "val": 4}.items()):
        generate_shapes(tmp_path / "datasets" / "shapes" / split, count, 128, seed)
    (trained, _) = run_page(PAGE.name, tmp_path, DETECTRON2_DATASETS=str(tmp_path / "datasets"))
    assert "Outputs are in output/short" in trained
    assert "0.0005 0.1\n" in capsys.readouterr().out
    written = {path.name for path in (tmp_path / "output" / "short").rglob("*")}
    text = PAGE.read_text(encoding="utf-8").partition("## What a run writes")[2]
    told = {name.rpartition("/")[2] for name in re.findall(r"^\| `([^`*]+)` \|", text, re.M)}
    # Which the commands of the page turn off.
    assert told - written == {"predictions.png"}


def test_the_message_on_the_page_is_that_of_the_program():
    path = ROOT / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
    with pytest.raises(ConfigError) as raised:
        load_config(path, ["train.max_iters=7", "optimizer.lr=high"])
    assert f"```text\nerror: {raised.value}\n```" in PAGE.read_text(encoding="utf-8")
