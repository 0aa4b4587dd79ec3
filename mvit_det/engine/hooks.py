"""What happens between the steps of a training, besides what Detectron2 has hooks for."""

import gc
import logging
from collections.abc import Callable
from typing import Any

from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..checkpoint import Checkpointer, read_weights
from ..errors import CheckpointError, OutputError
from .ema import ModelEMA

logger = logging.getLogger(__name__)

BEST, AVERAGED = "model_best", "model_final_ema"


class Checkpoints(HookBase):
    """Saves all that a training needs to go on: every so often, at its end, and when it is stopped.

    A checkpoint that cannot be written does not end the training, as the one before it is still
    there; only the last one has to be.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, keep_last: int) -> None:
        """Describes when to save.

        Args:
            checkpointer: writes.
            period: in steps.
            keep_last: so many numbered checkpoints are kept.
        """
        self.checkpointer = checkpointer
        self.period = period
        self.keep_last = keep_last

    def after_step(self) -> None:
        """Saves, if it is time."""
        done = self.trainer.iter + 1
        if done >= self.trainer.max_iter:
            self._save("model_final")
        elif self.trainer.stopped:
            self._save(f"model_{done:07d}")
        elif done % self.period == 0:
            try:
                self._save(f"model_{done:07d}")
            except CheckpointError as error:
                logger.error("The training goes on without this checkpoint: %s", error)
        else:
            return
        # A process that is done early would take those down that still need it.
        comm.synchronize()

    def _save(self, name: str) -> None:
        self.checkpointer.save(name, trainer=self.trainer.state_dict(), iteration=self.trainer.iter)
        self.checkpointer.keep_last(self.keep_last)


class Evaluations(HookBase):
    """Evaluates every so often and at the end, with weights and their average, and keeps the best.

    Results or best weights that cannot be written do not end the training; only those of the
    evaluation at the end have to be.

    Attributes:
        results: metrics of the last evaluation by task; those of the average
            with "ema/" before the task.
    """

    def __init__(
        self,
        evaluate: Callable[[str], dict[str, Any]],
        period: int,
        checkpointer: Checkpointer,
        *,
        best_metric: str = "",
        average: ModelEMA | None = None,
        resumed: bool = False,
    ) -> None:
        """Describes when to evaluate, and what is best.

        Args:
            evaluate: evaluates the model as it is, and writes to the folder of that name.
            period: in steps; 0 evaluates at the end only.
            checkpointer: writes the weights that were best so far as `model_best.pth`.
            best_metric: what shall be high, as "bbox/AP"; '' keeps no best weights.
            average: is evaluated as well.
            resumed: whether the best weights of before are there to be beaten.
        """
        self.evaluate = evaluate
        self.period = period
        self.checkpointer = checkpointer
        self.best_metric = best_metric
        self.average = average
        self.resumed = resumed
        self.best = float("-inf")
        self.results: dict[str, Any] = {}

    def before_train(self) -> None:
        """Looks up what there is to beat."""
        folder = self.checkpointer.save_dir
        if self.resumed and self.best_metric and folder and (folder / f"{BEST}.pth").is_file():
            try:
                metadata = read_weights(
                    folder / f"{BEST}.pth", trust=self.checkpointer.trust
                ).metadata
                if metadata.get("metric") == self.best_metric:
                    self.best = metadata["value"]
            except CheckpointError as error:
                logger.warning("The best weights so far are not known: %s", error)
        # All processes save together, and not all may see the file.
        self.best = comm.all_gather(self.best)[0]

    def after_step(self) -> None:
        """Evaluates, if it is time; the evaluation at the end comes later."""
        done = self.trainer.iter + 1
        if self.period and done % self.period == 0 and done < self.trainer.max_iter:
            self._evaluate()

    def after_train(self) -> None:
        """Evaluates after the last step, unless the training broke off."""
        if self.trainer.iter >= self.trainer.max_iter:
            if self.average is not None:
                with self.average.applied():
                    self.checkpointer.save(AVERAGED, resumable=False)
            self._evaluate()

    def _evaluate(self) -> None:
        results = self._results("evaluation")
        self._keep_if_best(results, "weights")
        if self.average is not None:
            with self.average.applied():
                averaged = self._results("evaluation_ema")
                self._keep_if_best(averaged, "averaged weights")
            results = {**results, **{f"ema/{task}": m for task, m in averaged.items()}}
        self.results = results
        # Figures and annotations refer to themselves, and would stay until Python comes round.
        gc.collect()
        if comm.is_main_process():
            self.trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False)
        comm.synchronize()

    def _results(self, folder: str) -> dict[str, Any]:
        """Metrics by task; none if they could not be written and the training goes on."""
        try:
            return self.evaluate(folder)
        except OutputError as error:
            if self.trainer.iter >= self.trainer.max_iter:
                raise
            logger.error("The training goes on without this evaluation: %s", error)
            return {}

    def _keep_if_best(self, results: dict[str, Any], which: str) -> None:
        """Saves the weights in use if they are better than all before."""
        if not self.best_metric:
            return
        metrics = flatten_results_dict(results)
        value = float(metrics.get(self.best_metric, float("nan")))
        # All processes save together, and only the main one has the metrics.
        value = comm.all_gather(value)[0]
        if metrics and self.best_metric not in metrics:
            logger.warning(
                "train.best_metric='%s' is none of the metrics: %s",
                self.best_metric,
                ", ".join(metrics),
            )
        if value > self.best:
            self.best = value
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
                logger.error("The best weights so far are not saved: %s", error)
            logger.info("Best %s so far, of the %s: %.2f", self.best_metric, which, value)
