"""The common part of the diagrams."""

import warnings

import matplotlib
import pytest

from mvit_det.plotting import any_text, new_figure, say, shorten, tidy


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("cat", "cat"),
        ("two\n  words", "two words"),
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 9 + "…"),
        ("a long name of a class", "a long na…"),
        ("eight ch ar", "eight ch…"),
    ],
)
def test_names_are_shortened_to_one_line(name, short):
    assert shorten(name, width=10) == short


def test_any_text_is_drawn_without_warnings_and_settings_are_put_back(tmp_path):
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with any_text():
            figure = new_figure(4, 3)
            axes = figure.subplots()
            tidy(axes)
            axes.set_title("$\\no{formula 犬 \U0001f600")
            say(axes, "nothing to see " * 5)
            figure.savefig(tmp_path / "text.png", dpi=50)
    assert dict(matplotlib.rcParams) == before
    (text,) = axes.texts
    assert "\n" in text.get_text()
    assert not axes.spines["top"].get_visible()
    assert (tmp_path / "text.png").stat().st_size > 1000
