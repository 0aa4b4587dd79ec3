"""What becomes of steps whose loss or gradient is infinite or NaN."""

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from detectron2.utils import comm
from torch import Tensor, nn

from ..checkpoint.writing import atomic_path
from ..errors import CheckpointError, TrainingError
from ..modeling import MultiScaleTransformer
from ..modeling.plan import BlockPlan
from .parallel import local_tensor, unwrapped

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

Part = tuple[Any, Mapping[str, Tensor]]


class NonFiniteSteps:
    """Leaves such steps out, writes down what led to them, and ends a training that has too many.

    Loss scaling for fp16 makes gradients overflow now and then by design, with a finite loss; such
    steps count, but are written down only when they end the training.
    """

    def __init__(self, limit: int, output_dir: str | Path = "") -> None:
        """Describes the policy.

        Args:
            limit: so many steps in a row are left out; one more ends the training.
            output_dir: reports go to the folder `nonfinite` in it; '' writes none.
        """
        self.limit = limit
        self.output_dir = Path(output_dir) if output_dir else None
        self.in_a_row = 0

    def passed(self) -> None:
        """Notes a step that was as it should be."""
        self.in_a_row = 0

    def failed(self, trainer: "Trainer", parts: Sequence[Part], norm: Tensor) -> None:
        """Notes a step that must not change the model.

        Args:
            trainer: whose model still holds the gradients of the step.
            parts: of the batch, with the losses of each.
            norm: of all gradients together.

        Raises:
            TrainingError: there have been more than `limit` in a row.
        """
        self.in_a_row += 1
        ends = self.in_a_row > self.limit
        finite_losses = all(loss.isfinite() for _, losses in parts for loss in losses.values())
        overflow = trainer.grad_scaler.is_enabled() and finite_losses
        if ends:
            raise self._error("the loss or its gradient", trainer, parts, norm)
        if not overflow:
            logger.warning(
                "Infinite or NaN loss or gradient at iteration %d: left this step out (%d in a "
                "row, at most %d)%s",
                trainer.iter,
                self.in_a_row,
                self.limit,
                self._write_down(trainer, parts, norm),
            )

    def diverged(self, trainer: "Trainer", parts: Sequence[Part]) -> NoReturn:
        """Ends a training whose model predicts what no loss can be computed of.

        Args:
            trainer: whose model is as it was before the step.
            parts: of the batch so far, with the losses of each; the last has none.

        Raises:
            TrainingError: in any case.
        """
        self.in_a_row += 1
        norm = torch.tensor(float("nan"))
        raise self._error("what the model predicts", trainer, parts, norm)

    def _error(
        self, what: str, trainer: "Trainer", parts: Sequence[Part], norm: Tensor
    ) -> TrainingError:
        before = self.in_a_row - 1
        return TrainingError(
            f"{what} was infinite or NaN at iteration {trainer.iter}"
            + (f", as in the {before} before" if before else "")
            + f"{self._write_down(trainer, parts, norm)}. The model was not changed by that. Try a "
            "lower optimizer.lr, a longer warm-up, train.max_grad_norm=1.0, or "
            "train.amp.dtype=bf16 instead of fp16, and go on with '--resume', or start from an "
            "earlier checkpoint with train.init_checkpoint"
        )

    def _write_down(self, trainer: "Trainer", parts: Sequence[Part], norm: Tensor) -> str:
        """Writes a report, and says so in words that end a sentence."""
        if not self.output_dir:
            return ""
        # Each process has images of its own.
        name = f"iteration_{trainer.iter:07d}_process_{comm.get_rank()}.json"
        path = self.output_dir / "nonfinite" / name
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(_report(trainer, parts, norm), indent=1))
        except CheckpointError as error:
            return f"; the batch, its losses and gradients are not written down: {error}"
        return f"; the batch, its losses and gradients are written down in '{path}'"


def _report(trainer: "Trainer", parts: Sequence[Part], norm: Tensor) -> dict[str, Any]:
    """What a person wants to know of such a step, as plain values."""
    return {
        "iteration": trainer.iter,
        "learning_rate": max(group["lr"] for group in trainer.optimizer.param_groups),
        "loss_scale": trainer.grad_scaler.get_scale(),
        "gradient_norm": _number(norm),
        "gradient_norm_by_part_of_the_model": _gradient_norms(trainer.model),
        "batch": [
            {
                "losses": {name: _number(loss) for name, loss in losses.items()},
                "images": [_describe(image) for image in batch],
            }
            for batch, losses in parts
        ],
    }


def _describe(record: Any) -> dict[str, Any]:
    """File, shape and number of objects of an image, as far as it is one of Detectron2's."""
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
    """Norms of the gradients by stage of the backbone and by head; of this process's shards."""
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
            squares[_part_of(name, plans)] += square
    return {part: _number(math.sqrt(square)) for part, square in squares.items()}


def _part_of(name: str, plans: Mapping[str, Sequence[BlockPlan]]) -> str:
    """A stage of an MViTv2, or the first two words of a parameter's name."""
    for prefix, plan in plans.items():
        if match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", name):
            return prefix + plan[int(match[1])].scale
    return ".".join(name.split(".")[:2])


def _number(value: Tensor | float) -> float | str:
    """A number as JSON knows it, and "nan" or "inf" as text."""
    number = float(value)
    return number if math.isfinite(number) else str(number)
