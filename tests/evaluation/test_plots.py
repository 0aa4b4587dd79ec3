"""Diagrams: of a sane size, not empty, and for any number of classes with any names."""

import warnings

import numpy as np
import pytest
from PIL import Image

from mvit_det.evaluation import plots
from mvit_det.evaluation.plots import draw_ap_by_class, draw_precision_recall

ODD_NAMES = ["猫", "$x^{", "_hidden", "two\nlines", "an endless name " * 5, ""]


def read(path):
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert 100 < image.shape[0] < 3000
    assert 400 < image.shape[1] < 3000
    return image


def coloured(image):
    """The share of pixels that are neither white, black nor grey."""
    return (np.ptp(image, axis=2) > 60).mean()


@pytest.mark.parametrize(
    ("names", "empty"),
    [(["one"], []), (ODD_NAMES, [2]), ([f"class {i}" for i in range(1203)], range(5, 90))],
    ids=["one", "odd", "many"],
)
def test_any_number_of_classes_with_any_names_is_drawn(make_evaluation, tmp_path, names, empty):
    evaluations = {task: make_evaluation(names, empty) for task in ("bbox", "segm")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_precision_recall(evaluations, tmp_path / "curves.png")
        draw_ap_by_class(evaluations, tmp_path / "bars.png")
    curves, bars = read(tmp_path / "curves.png"), read(tmp_path / "bars.png")
    assert (curves < 128).all(axis=2).mean() > 0.005
    assert (coloured(curves) > 0) == (len(names) == len(ODD_NAMES))
    assert coloured(bars) > 0.1


def test_without_objects_or_masks_there_are_images_too(make_evaluation, tmp_path):
    for number, evaluations in enumerate(
        [
            {task: make_evaluation(["a", "b"], empty=[0, 1]) for task in ("bbox", "segm")},
            {"bbox": make_evaluation([])},
        ]
    ):
        draw_precision_recall(evaluations, tmp_path / f"curves{number}.png")
        draw_ap_by_class(evaluations, tmp_path / f"bars{number}.png")
        for name in ("curves", "bars"):
            image = read(tmp_path / f"{name}{number}.png")
            assert coloured(image) == 0
            assert (image < 200).any()


def test_classes_are_drawn_from_the_best_to_the_worst(make_evaluation, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        plots, "_draw_bars", lambda axes, evaluations, indexes, slots: drawn.append(indexes)
    )
    evaluation = make_evaluation([str(i) for i in range(100)], empty=[7])
    figures = np.array([evaluation.metrics(index)["AP"] for index in range(100)])
    draw_ap_by_class({"bbox": evaluation}, tmp_path / "bars.png")
    best, worst = drawn
    assert len(best) == len(worst) == 40
    assert (np.diff(figures[best]) <= 0).all()
    assert (np.diff(figures[worst]) <= 0).all()
    others = set(range(100)) - {7, *best, *worst}
    assert len(others) == 19
    assert all(figures[worst].max() <= figures[i] <= figures[best].min() for i in others)


def test_up_to_80_classes_are_all_drawn(make_evaluation, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        plots, "_draw_bars", lambda axes, evaluations, indexes, slots: drawn.append(indexes)
    )
    for count in (40, 80):
        drawn.clear()
        draw_ap_by_class({"bbox": make_evaluation(["x"] * count)}, tmp_path / "bars.png")
        assert sorted(np.concatenate(drawn)) == list(range(count))
        assert len(drawn) == count // 40
