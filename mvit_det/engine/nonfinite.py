"""Steps with an infinite or NaN loss or gradient."""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint.files import atomic_path
from ..errors import CheckpointError, TrainingError
from ..modeling import MultiScaleTransformer
from ..modeling.plan import BlockPlan
from .parallel import local_tensor, unwrapped

logger = logging.getLogger(__name__)

MicroBatch = tuple[Any, Mapping[str, Tensor]]  # a batch and its losses


@dataclass(frozen=True)
class Step:
    """One step of a training, for reports.

    Attributes:
        iteration: number of the step.
        model: with the gradients of the step.
        micro_batches: each with its losses; {} where there are none.
        grad_norm: total norm of the gradients.
        learning_rate: the highest of all parameter groups.
        loss_scale: of the gradient scaler.
        scales_loss: whether losses are scaled for fp16.
    """

    iteration: int
    model: nn.Module
    micro_batches: Sequence[MicroBatch]
    grad_norm: Tensor
    learning_rate: float
    loss_scale: float
    scales_loss: bool


class NonFiniteSteps:
    """Skips and reports steps with an infinite or NaN loss or gradient, up to a number in a row.

    Loss scaling for fp16 makes gradients overflow now and then by design, with a finite loss; such
    steps count, and are reported only when they end the training.
    """

    def __init__(self, limit: int, output_dir: str | Path = "") -> None:
        """Creates the policy.

        Args:
            limit: number of steps in a row to skip; one more ends the training.
            output_dir: reports go to its folder `nonfinite`; '' writes none.
        """
        self.limit = limit
        self.output_dir = Path(output_dir) if output_dir else None
        self.in_a_row = 0

    def passed(self) -> None:
        """Records a finite step."""
        self.in_a_row = 0

    def failed(self, step: Step) -> None:
        """Records a step that is skipped because its loss or gradient is not finite.

        Raises:
            TrainingError: there have been more than `limit` in a row.
        """
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            raise self._error("the loss or its gradient", step)
        losses = [loss for _, losses in step.micro_batches for loss in losses.values()]
        if step.scales_loss and all(loss.isfinite() for loss in losses):
            return
        logger.warning(
            "Infinite or NaN loss or gradient at iteration %d: skipped this step (%d in a row, at "
            "most %d)%s",
            step.iteration,
            self.in_a_row,
            self.limit,
            self._write_report(step),
        )

    def diverged(self, step: Step) -> NoReturn:
        """Ends a training whose predictions are not finite, so that there is no loss.

        Raises:
            TrainingError: in any case.
        """
        self.in_a_row += 1
        raise self._error("the model's prediction", step)

    def _error(self, subject: str, step: Step) -> TrainingError:
        before = self.in_a_row - 1
        return TrainingError(
            f"{subject} was infinite or NaN at iteration {step.iteration}"
            + (f", as in the {before} before" if before else "")
            + f"{self._write_report(step)}. The model was not changed by this step. Try a lower "
            "optimizer.lr, a longer warm-up, train.max_grad_norm=1.0, or train.amp.dtype=bf16 "
            "instead of fp16, and resume with '--resume', or start from an earlier checkpoint with "
            "train.init_checkpoint"
        )

    def _write_report(self, step: Step) -> str:
        """Writes a report, and returns the end of a sentence that names it."""
        if not self.output_dir:
            return ""
        # The images differ between ranks.
        name = f"iteration_{step.iteration:07d}_process_{comm.get_rank()}.json"
        path = self.output_dir / "nonfinite" / name
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(_report(step), indent=1))
        except CheckpointError as error:
            return f"; no report of the batch, its losses and gradients: {error}"
        return f"; see the batch, its losses and gradients in '{path}'"


def _report(step: Step) -> dict[str, Any]:
    """Plain values that describe a step."""
    return {
        "iteration": step.iteration,
        "learning_rate": step.learning_rate,
        "loss_scale": step.loss_scale,
        "gradient_norm": _number(step.grad_norm),
        "gradient_norm_by_part_of_the_model": _gradient_norms(step.model),
        "batch": [
            {
                "losses": {name: _number(loss) for name, loss in losses.items()},
                "images": [_describe(image) for image in batch],
            }
            for batch, losses in step.micro_batches
        ],
    }


def _describe(record: Any) -> dict[str, Any]:
    """File, shape and number of objects of an image in Detectron2's format."""
    if not isinstance(record, Mapping):
        return {"type": type(record).__name__}
    image, instances = record.get("image"), record.get("instances")
    return {
        "file_name": record.get("file_name"),
        "image_id": record.get("image_id"),
        "shape": None if image is None else list(image.shape),
        "objects": None if instances is None else len(instances),
    }


def _gradient_norms(model: nn.Module) -> dict[str, Any]:
    """Gradient norms by stage of an MViTv2 and by head; of this rank's shards."""
    model = unwrapped(model)
    plans = {
        f"{name}." if name else "": module.plan
        for name, module in model.named_modules()
        if isinstance(module, MultiScaleTransformer)
    }
    squares: dict[str, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            square = local_tensor(parameter.grad).double().square().sum().item()
            squares[_group_of(name, plans)] += square
    return {group: _number(math.sqrt(square)) for group, square in squares.items()}


def _group_of(name: str, plans: Mapping[str, Sequence[BlockPlan]]) -> str:
    """The stage of an MViTv2, or the first two words of the name, that a parameter belongs to."""
    for prefix, plan in plans.items():
        if match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", name):
            return prefix + plan[int(match[1])].scale
    return ".".join(name.split(".")[:2])


def _number(value: Tensor | float) -> float | str:
    """A number for JSON, which has no NaN and no infinity."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
