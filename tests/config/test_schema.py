"""The description of the fields: what it allows, and that it fits the defaults."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf

from mvit_det.config.schema import FIELDS, Field, is_group, names_below

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def flatten(node, prefix):
    for name, value in node.items():
        if isinstance(value, DictConfig):
            yield from flatten(value, f"{prefix}.{name}")
        else:
            plain = OmegaConf.is_list(value)
            yield f"{prefix}.{name}", OmegaConf.to_container(value) if plain else value


@pytest.mark.parametrize(("entry", "file"), [("train", "train.py"), ("data", "data/coco.py")])
def test_every_field_has_a_description_and_a_default_that_fits_it(entry, file):
    config = LazyConfig.load(str(CONFIGS / "common" / file))
    defaults = dict(flatten(config[entry], entry))
    assert set(defaults) == {path for path in FIELDS if path.startswith(f"{entry}.")}
    assert [path for path, value in defaults.items() if FIELDS[path].demand(value)] == []


@pytest.mark.parametrize(
    ("field", "good", "bad", "text"),
    [
        (Field(bool), [True, False], [0, 1, "true", None], "true or false"),
        (Field(str), ["", "x"], [1, None, True, ["x"]], "a text"),
        (Field(int), [-1, 0, 10**9], [1.0, "1", True, None, []], "an integer"),
        (Field(float), [-1.5, 3], ["1e-3", False, None, float("nan")], "a number"),
        (Field(list), [[], ["a", "b"]], ["a", [1], None, {}], "a list of strings"),
    ],
)
def test_values_of_another_type_are_refused(field, good, bad, text):
    assert str(field) == text
    assert [value for value in good if field.demand(value)] == []
    assert [field.demand(value) for value in bad] == [text] * len(bad)


def test_values_out_of_range_are_refused():
    field = Field(float, least=0, below=1)
    assert str(field) == "a number of at least 0 and below 1"
    assert [value for value in (0, 0.5, 0.999) if field.demand(value)] == []
    assert [field.demand(value) for value in (-0.1, 1)] == [str(field)] * 2
    # The range of what is no number is beside the point.
    assert field.demand("x") == "a number"
    field = Field(str, choices=("auto", "bf16", "fp16"))
    assert str(field) == "'auto', 'bf16' or 'fp16'"
    assert field.demand("bf16") is None
    assert field.demand("fp8") == field.demand(16) == str(field)


def test_groups_hold_the_fields_below_them():
    assert names_below("train.amp") == ["enabled", "dtype"]
    assert {"amp", "max_iter"} <= set(names_below("train"))
    assert names_below("model") == []
    assert is_group("train")
    assert is_group("train.amp")
    assert not is_group("train.max_iter")
