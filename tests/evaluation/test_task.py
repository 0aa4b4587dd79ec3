"""Metrics and curves of a task: equal to the evaluator's, and to each other."""

import math

import numpy as np
import pytest

from mvit_det.evaluation import METRICS, TaskEvaluation
from mvit_det.evaluation.metrics import IOUS, RECALLS


def test_the_area_under_a_curve_is_the_ap(make_evaluation):
    evaluation = make_evaluation(["a", "b", "c"], empty=[1])
    for index in (None, 0, 2):
        metrics = evaluation.metrics(index)
        assert evaluation.curve(None, index).mean() == pytest.approx(metrics["AP"])
        assert evaluation.curve(0.5, index).mean() == pytest.approx(metrics["AP50"])
        assert evaluation.curve(0.75, index).mean() == pytest.approx(metrics["AP75"])
        assert evaluation.curve(0.5, index).shape == (len(RECALLS),)


def test_the_whole_is_the_mean_of_the_classes_that_have_objects(make_evaluation):
    evaluation = make_evaluation(["a", "b", "c"], empty=[1])
    whole, first, last = evaluation.metrics(), evaluation.metrics(0), evaluation.metrics(2)
    assert list(whole) == [*METRICS, "AR"]
    for metric, figure in whole.items():
        assert figure == pytest.approx((first[metric] + last[metric]) / 2)
    assert all(map(math.isnan, evaluation.metrics(1).values()))
    assert np.isnan(evaluation.curve(0.5, 1)).all()


def test_without_objects_everything_is_nan():
    evaluation = TaskEvaluation.without_objects(["a", "b"])
    assert all(map(math.isnan, evaluation.metrics().values()))
    assert np.isnan(evaluation.curve()).all()
    assert evaluation.objects.tolist() == [0, 0]


def test_average_recall_is_the_mean_over_the_ious():
    recall = np.zeros((len(IOUS), 1, 4))
    recall[:5] = 0.8
    precision = np.zeros((len(IOUS), len(RECALLS), 1, 4))
    evaluation = TaskEvaluation(["a"], np.array([3]), precision, recall)
    assert evaluation.metrics()["AR"] == pytest.approx(40)
