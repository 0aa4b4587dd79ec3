"""Values that fields allow, and the words of the schema for them."""

import pytest

from mvit_det.config.schema import ENTRIES, RENAMED, Field, Train, arguments_of_call, fields_of


@pytest.mark.parametrize(
    ("kind", "good", "bad", "text"),
    [
        (bool, [True, False], [0, 1, "true", None], "true or false"),
        (str, ["", "x"], [1, None, True, ["x"]], "a string"),
        (int, [-1, 0, 10**9], [1.0, "1", True, None, []], "an integer"),
        (float, [-1.5, 3], ["1e-3", False, None, float("nan"), float("inf")], "a number"),
        (list[str], [[], ["a", "b"]], ["a", [1], None, {}], "a list of strings"),
        (list[list[float]], [[], [[1, 0.5]]], [[1], [["a"]], None], "a list of lists"),
        (str | list[str], ["a", ["a"]], [1, [1], None], "a string, or a list of strings"),
        (int | None, [3, None], ["3", True], "an integer, or none"),
    ],
)
def test_kinds(kind, good, bad, text):
    field = Field(kind, "")
    assert str(field) == text
    assert [value for value in good if not field.allows(value)] == []
    assert [value for value in bad if field.allows(value)] == []


@pytest.mark.parametrize(
    ("field", "good", "bad", "text"),
    [
        (Field(float, "", least=0, below=1), [0, 0.999], [-0.1, 1],
         "a number of at least 0 and below 1"),
        (Field(float, "", above=0, most=1), [0.1, 1], [0, 1.1],
         "a number above 0 and at most 1"),
        (Field(float, "", least=0, most=1), [0, 1], [-1, 2], "a number from 0 to 1"),
        (Field(list[int], "", least=1), [[1, 2]], [[1, 0]], "a list of integers of at least 1"),
        (Field(int | None, "", least=1), [1, None], [0], "an integer of at least 1, or none"),
        (Field(str, "", choices=("a", "b", "c")), ["b"], ["d", 1], "'a', 'b' or 'c'"),
        (Field(list[str] | None, "", choices=("a", "b")), [["b"], None], [["c"]],
         "a list of 'a' and 'b', or none"),
    ],
)  # fmt: skip
def test_ranges_and_choices(field, good, bad, text):
    assert str(field) == text
    assert [value for value in good if not field.allows(value)] == []
    assert [value for value in bad if field.allows(value)] == []


def flatten(group, defaults, prefix):
    for name, field in fields_of(group).items():
        value = getattr(defaults, name)
        if isinstance(field, Field):
            yield f"{prefix}.{name}", field, value
        else:
            yield from flatten(field, value, f"{prefix}.{name}")


@pytest.mark.parametrize("entry", ENTRIES)
def test_defaults_are_allowed_and_described(entry):
    described = list(flatten(ENTRIES[entry], ENTRIES[entry](), entry))
    assert [path for path, field, value in described if not field.allows(value)] == []
    assert [path for path, field, _ in described if not field.meaning] == []


def test_subclasses_share_arguments():
    class ROIHeads:
        pass

    class Special(ROIHeads):
        pass

    assert arguments_of_call(Special) == arguments_of_call(ROIHeads)
    assert "num_classes" in arguments_of_call(Special)
    assert arguments_of_call(None) == {}


def test_former_names_lead_to_fields():
    fields = {path for path, _, _ in flatten(Train, Train(), "train")}
    new = {name for name in RENAMED.values() if not name.startswith("--")}
    assert new <= fields
    assert not fields.intersection(RENAMED)
