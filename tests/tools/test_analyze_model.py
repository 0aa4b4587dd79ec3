"""Counts of parameters, multiply-adds and memory, as tables."""

import runpy
import sys
from pathlib import Path

import pytest
from detectron2.config import instantiate

from mvit_det.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [str(ROOT / "configs" / "shapes" / f"{name}_mvitv2_pico.py")
           for name in ("mask_rcnn", "cascade_mask_rcnn", "retinanet")]  # fmt: skip

CLASSIFIER = str(ROOT / "configs" / "shapes" / "classifier_mvitv2_pico.py")


@pytest.fixture
def rows_of(monkeypatch, capsys):
    """The cells of the table that the tool prints, without its header."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["analyze_model.py", *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "tools" / "analyze_model.py"), run_name="__main__")
        if stopped.value.code:
            raise stopped.value
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]

    return run


def test_counts(rows_of):
    rows = rows_of(*CONFIGS, "--size", "256", "256")
    for row, path in zip(rows, CONFIGS, strict=True):
        model = instantiate(load_config(path).model)
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        name, parameters, backbone, proposals, heads, total = row
        assert name == Path(path).stem
        assert float(parameters) == pytest.approx(millions, abs=0.05)
        assert float(total) == pytest.approx(
            sum(map(float, (backbone, proposals, heads))), rel=0.05
        )
        assert float(heads) > 0
    # One head, three heads, and none behind proposals.
    assert float(rows[0][4]) < float(rows[1][4])
    assert float(rows[2][3]) == 0


def test_memory(rows_of):
    ((name, *counted, images, reserve, total),) = rows_of(
        CONFIGS[0], "--memory", "--size", "96", "128", "--opts", "train.ema.enabled=True"
    )
    assert name == "mask_rcnn_mvitv2_pico"
    number, each = map(float, images.split(" × "))
    assert number == 4
    expected = sum(map(float, counted)) + number * each + float(reserve)
    assert float(total) == pytest.approx(expected, abs=0.1)


def test_errors_are_one_sentence(rows_of, capsys):
    with pytest.raises(SystemExit, match="1"):
        rows_of("missing.py")
    assert "missing.py" in capsys.readouterr().err


def test_a_classifier_has_a_total(rows_of):
    ((_, parameters, *_, total),) = rows_of(CLASSIFIER, "--size", "64", "64")
    assert float(parameters) > 0
    # Twice the sides, four times the tokens: a little more, as attention grows faster.
    ((*_, larger),) = rows_of(CLASSIFIER, "--size", "128", "128")
    assert 4 * float(total) < float(larger) < 8 * float(total)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["shapes/video_mvitv2_pico"], "video_mvitv2_pico"),
        ([CLASSIFIER, "--memory"], "--memory"),
        ([CLASSIFIER, "--size", "0", "64"], "'0'"),
        ([CLASSIFIER, "--size", "64", "-5"], "'-5'"),
    ],
)
def test_models_and_sizes_that_cannot_be_counted_are_refused(arguments, named, rows_of, capsys):
    with pytest.raises(SystemExit):
        rows_of(*arguments)
    assert named in capsys.readouterr().err
