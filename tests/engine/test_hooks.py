import logging

import pytest
import torch
from torch import nn

from mvit_det.checkpoint import Checkpointer
from mvit_det.engine.ema import ModelEMA
from mvit_det.engine.hooks import Checkpoints, Evaluations
from mvit_det.engine.trainer import Trainer
from mvit_det.errors import ConfigError, OutputError


class Counter(nn.Module):
    """Its weight grows by one with each step."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"loss": -self.weight}


def run(
    folder,
    steps,
    scores=None,
    *,
    period=2,
    best_metric="bbox/AP",
    patience=0,
    ema=False,
    resumed=False,
    start=0,
):
    """Trains; `scores` maps the weight at an evaluation to its AP. Returns the evaluations."""
    model = Counter()
    seen = []

    def evaluate(name):
        weight = model.weight.item()
        seen.append((name, pytest.approx(weight)))
        score = scores[round(weight)] if scores else weight
        if isinstance(score, Exception):
            raise score
        return {"bbox": {"AP": score, "AP50": 1.0}}

    trainer = Trainer(
        model, [None] * steps, torch.optim.SGD(model.parameters(), lr=1.0), device="cpu"
    )
    checkpointer = Checkpointer(model, folder, class_names=["thing"])
    checkpointer.resume_or_load("", resume=resumed)
    nn.init.constant_(model.weight, float(start))
    average = ModelEMA(model, 0.5, 0) if ema else None
    evaluations = Evaluations(
        evaluate,
        period,
        checkpointer,
        best_metric=best_metric,
        patience=patience,
        ema=average,
        resumed=resumed,
    )
    trainer.register_hooks([average, Checkpoints(checkpointer, 3, keep_last=2), evaluations])
    trainer.train(start, steps)
    return seen, evaluations.results


def weights_in(folder, name):
    return torch.load(folder / f"{name}.pth", weights_only=True)


def test_evaluations_come_every_so_often_and_once_at_the_end(tmp_path):
    seen, results = run(tmp_path, 6)
    assert seen == [("evaluation", 2), ("evaluation", 4), ("evaluation", 6)]
    assert results == {"bbox": {"AP": 6.0, "AP50": 1.0}}
    assert run(tmp_path, 5, period=0)[0] == [("evaluation", 5)]


def test_the_best_weights_are_kept(tmp_path):
    run(tmp_path, 6, {2: 10.0, 4: 30.0, 6: 20.0})
    best = weights_in(tmp_path, "model_best")
    assert best["model"]["weight"] == 4
    assert {key: value for key, value in best.items() if key not in ("model", "run")} == {
        "metric": "bbox/AP",
        "value": 30.0,
        "iteration": 3,
        "weights": "weights",
        "class_names": ["thing"],
    }
    # It is not for resuming.
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_resumed_training_has_to_beat_the_best_of_before(tmp_path):
    run(tmp_path, 2, {2: 30.0})
    run(tmp_path, 4, {2: 10.0, 4: 20.0}, resumed=True)
    assert weights_in(tmp_path, "model_best")["value"] == 30.0
    run(tmp_path, 4, {2: 10.0, 4: 40.0}, resumed=True)
    assert weights_in(tmp_path, "model_best")["value"] == 40.0
    run(tmp_path, 2, {2: 5.0}, resumed=False)
    assert weights_in(tmp_path, "model_best")["value"] == 5.0


def test_damaged_best_weights_are_beaten_by_any(tmp_path, caplog):
    run(tmp_path, 2, {2: 30.0})
    (tmp_path / "model_best.pth").write_bytes(b"damaged")
    run(tmp_path, 4, {2: 10.0, 4: 20.0}, resumed=True)
    assert "The best metric so far is unknown: " in caplog.text
    assert weights_in(tmp_path, "model_best")["value"] == 20.0


def test_a_full_disk_ends_no_training_before_its_end(tmp_path, caplog):
    (tmp_path / "model_best.pth").mkdir()
    seen, _ = run(tmp_path, 4)
    assert len(seen) == 2
    assert caplog.text.count("The best weights so far could not be saved: cannot write '") == 2
    # The same holds for results.
    with pytest.raises(OutputError):
        run(tmp_path, 4, {2: OutputError("full"), 4: OutputError("full")})
    assert caplog.text.count("The training continues without this evaluation: full") == 1
    assert weights_in(tmp_path, "model_final")["model"]["weight"] == 4


def test_no_best_weights_if_there_is_no_metric(tmp_path, caplog):
    # At the end there is nothing to lose; before, the training would go on without best weights.
    run(tmp_path / "other", 2, best_metric="segm/AP")
    assert not (tmp_path / "other" / "model_best.pth").exists()
    assert "train.best_metric='segm/AP'" in caplog.text
    assert "bbox/AP" in caplog.text
    with pytest.raises(ConfigError, match="'segm/AP'"):
        run(tmp_path / "other", 4, best_metric="segm/AP")
    caplog.clear()
    run(tmp_path, 2, best_metric="")
    assert not (tmp_path / "model_best.pth").exists()
    assert not caplog.records


def test_nan_is_no_best(tmp_path):
    run(tmp_path, 4, {2: float("nan"), 4: float("nan")})
    assert not (tmp_path / "model_best.pth").exists()


FALLING = {2: 10.0, 4: 30.0, 6: 30.0, 8: 20.0, 10: 40.0, 12: 5.0}


def test_early_stopping_ends_with_the_last_evaluation(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    seen, results = run(tmp_path, 12, FALLING, patience=2)
    # The evaluation that stops is the final one, and is not repeated.
    assert [weight for _, weight in seen] == [2, 4, 6, 8]
    assert results["bbox"]["AP"] == 20.0
    assert weights_in(tmp_path, "model_best")["model"]["weight"] == 4
    final = weights_in(tmp_path, "model_final")
    assert (final["model"]["weight"], final["iteration"], final["trainer"]["iteration"]) == (
        8,
        7,
        7,
    )
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    (message,) = [r.getMessage() for r in caplog.records if "Early stopping" in r.getMessage()]
    assert "after iteration 8: no better bbox/AP than 30.00 (iteration 4, " in message


@pytest.mark.slow
def test_without_early_stopping_or_with_patience_a_training_is_complete(tmp_path):
    for number, patience in enumerate((0, 3)):
        seen, results = run(tmp_path / str(number), 12, FALLING, patience=patience)
        assert len(seen) == 6
        assert results["bbox"]["AP"] == 5.0


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [3, 5, 7])
def test_early_stopping_counts_on_after_a_resume(tmp_path, interrupted):
    run(tmp_path, interrupted, {**FALLING, 3: 0.0, 5: 0.0, 7: 0.0}, patience=2)
    # The evaluation at the end of the first part is none of the periodic ones.
    seen, _ = run(tmp_path, 12, FALLING, patience=2, resumed=True, start=interrupted)
    assert seen[-1] == ("evaluation", 8)


def test_a_training_that_had_stopped_early_ends_at_once(tmp_path):
    run(tmp_path, 12, FALLING, patience=2)
    seen, results = run(tmp_path, 12, FALLING, patience=2, resumed=True, start=8)
    assert seen == [("evaluation", 8)]
    assert results["bbox"]["AP"] == 20.0
    assert len(run(tmp_path, 12, FALLING, patience=0, resumed=True, start=8)[0]) == 2


def test_nan_stops_nothing_early(tmp_path):
    nan = dict.fromkeys(FALLING, float("nan"))
    assert len(run(tmp_path, 12, nan, patience=1)[0]) == 6


def test_early_stopping_saves_the_average_too(tmp_path):
    scores = {2: 30.0, 1: 1.0, 4: 20.0, 3: 2.0}
    seen, results = run(tmp_path, 6, scores, patience=1, ema=True)
    assert [name for name, _ in seen] == ["evaluation", "evaluation_ema"] * 2
    assert (results["bbox"]["AP"], results["ema/bbox"]["AP"]) == (20.0, 2.0)
    assert weights_in(tmp_path, "model_final_ema")["model"]["weight"] == 3.0625


def test_averaged_weights_are_evaluated_beside_the_raw_ones(tmp_path):
    seen, results = run(tmp_path, 4, ema=True)
    # 0.5 · 0 + 0.5 · 1, and so on.
    averages = [0.5, 1.25, 2.125, 3.0625]
    assert seen == [
        ("evaluation", 2),
        ("evaluation_ema", averages[1]),
        ("evaluation", 4),
        ("evaluation_ema", averages[3]),
    ]
    assert results["ema/bbox"]["AP"] == pytest.approx(averages[3])
    assert weights_in(tmp_path, "model_final_ema")["model"]["weight"] == averages[3]
    assert weights_in(tmp_path, "model_final")["model"]["weight"] == 4


def test_the_average_may_be_the_best(tmp_path):
    run(tmp_path, 2, {2: 10.0, 1: 20.0}, ema=True)
    best = weights_in(tmp_path, "model_best")
    assert best["model"]["weight"] == 1.25
    assert best["weights"] == "EMA"


def test_checkpoints_come_every_so_often_and_old_ones_go(tmp_path):
    run(tmp_path, 11)
    names = sorted(path.name for path in tmp_path.glob("model_*"))
    assert names == ["model_0000006.pth", "model_0000009.pth", "model_best.pth", "model_final.pth"]
    assert weights_in(tmp_path, "model_0000006")["iteration"] == 5
