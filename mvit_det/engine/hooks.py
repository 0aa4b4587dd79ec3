"""Hooks that save checkpoints and evaluate between the steps of a training."""

import difflib
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..checkpoint import Checkpointer
from ..errors import CheckpointError, ConfigError, OutputError
from .ema import ModelEMA

logger = logging.getLogger(__name__)

BEST, FINAL, FINAL_EMA = "model_best", "model_final", "model_final_ema"


def unknown_metric(name: str, known: Sequence[str]) -> ConfigError:
    """The error about a `train.best_metric` that is none of the metrics."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:10]
    return ConfigError(
        f"train.best_metric='{name}' is none of the metrics; the closest are {', '.join(near)} "
        "('' keeps no best weights)"
    )


class Checkpoints(HookBase):
    """Saves checkpoints periodically, at the end, and when the training is stopped.

    A checkpoint that cannot be written does not end the training, as the one before it exists; the
    last one has to be written.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, keep_last: int) -> None:
        """Creates the hook.

        Args:
            checkpointer: of the model.
            period: in steps.
            keep_last: number of periodic checkpoints to keep.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.keep_last = keep_last

    def after_step(self) -> None:
        """Saves a checkpoint, if it is time."""
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self._save(FINAL)
        elif self.trainer.stopped:
            self._save(f"model_{done:07d}")
        elif done % self.period == 0:
            try:
                self._save(f"model_{done:07d}")
            except CheckpointError as error:
                logger.error("The training continues without this checkpoint: %s", error)
        else:
            return
        # A rank that ends early would take down those that still need it.
        comm.synchronize()

    def _save(self, name: str) -> None:
        self.checkpointer.save(name, trainer=self.trainer.state_dict(), iteration=self.trainer.iter)
        self.checkpointer.keep_last(self.keep_last)


class Evaluations(HookBase):
    """Evaluates the weights and their EMA periodically and at the end, and keeps the best weights.

    Results or best weights that cannot be written do not end the training; results of the
    evaluation at the end have to be written.

    With early stopping, the training ends with the evaluation that is the last of `patience`
    evaluations without a new best value. Its results are the final ones, and its weights are
    saved as `model_final`. The number is derived from the iteration of the best weights, so that a
    resumed training stops where an uninterrupted one does, and one that had stopped ends at once.

    Attributes:
        results: metrics of the last evaluation by task; those of the EMA with the prefix "ema/".
    """

    def __init__(
        self,
        evaluate: Callable[[str], dict[str, Any]],
        period: int,
        checkpointer: Checkpointer,
        *,
        best_metric: str = "",
        patience: int = 0,
        ema: ModelEMA | None = None,
        resumed: bool = False,
    ) -> None:
        """Creates the hook.

        Args:
            evaluate: evaluates the current weights, and writes to a folder of the given name.
            period: in steps; 0 evaluates at the end only.
            checkpointer: writes the best weights so far to `model_best.pth`.
            best_metric: the higher, the better, such as "bbox/AP"; '' keeps no best weights. One
                that the first evaluation does not have raises a `ConfigError`.
            patience: evaluations without a new best value after which the training ends; 0
                disables early stopping, as do metrics that are all NaN.
            ema: is evaluated as well.
            resumed: whether the best weights before the interruption count.
        """
        self.evaluate = evaluate
        self.period = period
        self.checkpointer = checkpointer
        self.best_metric = best_metric
        self.patience = patience
        self.ema = ema
        self.resumed = resumed
        self.best = float("-inf")
        # Number of steps of the best weights, and of the last evaluation.
        self.best_after = self.evaluated_after = 0
        self.results: dict[str, Any] = {}

    def before_train(self) -> None:
        """Reads the metric of the best weights before the interruption."""
        if self.resumed and self.best_metric:
            try:
                best = self.checkpointer.metadata(BEST)
                if best.get("metric") == self.best_metric:
                    self.best = best["value"]
                    self.best_after = best["iteration"] + 1
            except CheckpointError as error:
                logger.warning("The best metric so far is unknown: %s", error)
        if self._is_over(self.trainer.start_iter):
            self._end_early(self.trainer.start_iter)

    def after_step(self) -> None:
        """Evaluates, if it is time and not the end."""
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0 and done < self.trainer.max_iter:
            self._evaluate()
            if self._is_over(done) and not self.trainer.stopped:
                self.checkpointer.save(
                    FINAL, trainer=self.trainer.state_dict(), iteration=self.trainer.iter
                )
                self._end_early(done)

    def after_train(self) -> None:
        """Evaluates after the last step, unless the training ended early."""
        if self.trainer.iter >= self.trainer.max_iter:
            if self.ema is not None:
                with self.ema.applied():
                    self.checkpointer.save(FINAL_EMA, resumable=False)
            if self.evaluated_after != self.trainer.iter:
                self._evaluate()

    def _is_over(self, done: int) -> bool:
        """Whether the last evaluations up to a number of steps brought no new best value."""
        if not self.patience or not self.period or self.best == float("-inf"):
            return False
        return done // self.period - self.best_after // self.period >= self.patience

    def _end_early(self, done: int) -> None:
        logger.info(
            "Early stopping after iteration %d: no better %s than %.2f (iteration %d, %s.pth) in "
            "the last %d evaluations",
            *(done, self.best_metric, self.best, self.best_after, BEST, self.patience),
        )
        self.trainer.max_iter = done

    def _evaluate(self) -> None:
        # At the end, `iter` is the number of steps.
        self.evaluated_after = min(self.trainer.iter + 1, self.trainer.max_iter)
        results = self._results("evaluation")
        self._keep_if_best(results, "weights")
        if self.ema is not None:
            with self.ema.applied():
                averaged = self._results("evaluation_ema")
                self._keep_if_best(averaged, "EMA")
            results = {**results, **{f"ema/{task}": m for task, m in averaged.items()}}
        self.results = results
        # Plots hold reference cycles with much memory.
        gc.collect()
        if comm.is_main_process():
            self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        comm.synchronize()

    def _results(self, folder: str) -> dict[str, Any]:
        """Metrics by task; {} if they could not be written and the training continues."""
        try:
            return self.evaluate(folder)
        except OutputError as error:
            if self.trainer.iter >= self.trainer.max_iter:
                raise
            logger.error("The training continues without this evaluation: %s", error)
            return {}

    def _keep_if_best(self, results: dict[str, Any], which: str) -> None:
        """Saves the current weights if they are the best so far."""
        if not self.best_metric:
            return
        metrics = flatten_results_dict(results)
        # Every rank saves, and only the main process has the metrics.
        metrics = comm.all_gather(metrics)[0]
        if metrics and self.best_metric not in metrics:
            error = unknown_metric(self.best_metric, list(metrics))
            if self.trainer.iter < self.trainer.max_iter:
                raise error
            # The last weights are saved anyway.
            logger.warning("%s", error)
        value = float(metrics.get(self.best_metric, float("nan")))
        if value > self.best:
            self.best = value
            self.best_after = self.evaluated_after
            try:
                self.checkpointer.save(
                    BEST,
                    resumable=False,
                    metric=self.best_metric,
                    value=value,
                    iteration=self.trainer.iter,
                    weights=which,
                )
            except CheckpointError as error:
                logger.error("The best weights so far could not be saved: %s", error)
            logger.info("Best %s so far, of the %s: %.2f", self.best_metric, which, value)
