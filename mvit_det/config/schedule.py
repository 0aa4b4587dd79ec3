"""Adapting a schedule to another batch size or length of training."""

import logging
from collections.abc import Collection
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError

logger = logging.getLogger(__name__)

LONGEST_WARMUP = 0.1  # of the training, unless the config has a longer one
MAX_EPOCHS = 1_000_000
_PERIODS = ("train.eval_period", "train.checkpointer.period")


def check_schedule(
    epochs: float | None = None,
    batch_size: int | None = None,
    grad_accum_steps: int | None = None,
) -> None:
    """Refuses values that no schedule can have; None is allowed.

    Raises:
        ConfigError: names the value.
    """
    values = {"epochs": epochs, "batch-size": batch_size, "grad-accum-steps": grad_accum_steps}
    for name, value in values.items():
        if value is not None and not 0 < value <= MAX_EPOCHS:
            raise ConfigError(f"--{name} must be positive and at most {MAX_EPOCHS:,}, not {value}")


def fit_schedule(
    config: DictConfig,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    grad_accum_steps: int | None = None,
    explicit: Collection[str] = (),
) -> None:
    """Changes batch size, length and learning rate together, in place, and logs the result.

    The learning rate is scaled with the batch size (linear rule: Goyal et al., "Accurate, Large
    Minibatch SGD", section 2.1). The warm-up sees as many images as before, but is no larger share
    of a shortened training than `LONGEST_WARMUP` or the config's own. Steps of the learning rate,
    evaluations and checkpoints stay at the same shares of the training.

    Args:
        config: with an `lr_multiplier` as the functions of `configs/common/schedule.py` make it.
        epochs: passes over the training images that have annotations; None keeps the number of
            images that the training sees.
        batch_size: images per optimizer step, over all ranks and micro-batches; None keeps it.
        grad_accum_steps: micro-batches per optimizer step on each rank; None keeps it.
        explicit: paths of fields that the user has set. The length, the periods and the warm-up
            keep their values; the learning rate is scaled, as it is for the config's batch.

    Raises:
        ConfigError: a value is out of range, or the config has no length to go by.
    """
    check_schedule(epochs, batch_size, grad_accum_steps)
    if grad_accum_steps is not None:
        config.train.grad_accum_steps = grad_accum_steps
    before = config.dataloader.train.total_batch_size
    batch = batch_size or before
    old_iterations = config.train.max_iter
    if epochs is not None:
        images = len(instantiate(config.dataloader.train.dataset))
        iterations = max(round(epochs * images / batch), 1)
    elif "train.max_iter" in explicit:
        iterations = old_iterations
    elif old_iterations > 0:
        iterations = max(round(old_iterations * before / batch), 1)
    else:
        raise ConfigError("the config has no train.max_iter to go by; set the length by '--epochs'")

    if old_iterations > 0:
        stretch = iterations / old_iterations
        if "lr_multiplier.warmup_length" not in explicit:
            _stretch_warmup(config.lr_multiplier, stretch, before / batch)
        for path in _PERIODS:
            if path not in explicit:
                period = OmegaConf.select(config, path)
                OmegaConf.update(config, path, _stretched(period, stretch))
    config.train.max_iter = iterations
    config.dataloader.train.total_batch_size = batch
    config.optimizer.lr *= batch / before
    logger.info("%s", describe_schedule(config))


def describe_schedule(config: DictConfig) -> str:
    """One line on batch, length, learning rate and when it changes."""
    settings, multiplier = config.train, config.lr_multiplier
    text = (
        f"Schedule: {settings.max_iter} iterations of {config.dataloader.train.total_batch_size} "
        f"images in {settings.grad_accum_steps} micro-batch(es) per rank, learning rate "
        f"{config.optimizer.lr:.3g}"
    )
    if "warmup_length" in multiplier:
        text += f", warm-up {round(multiplier.warmup_length * settings.max_iter)} iterations"
    steps = multiplier.get("scheduler", multiplier)
    if "milestones" in steps:
        shares = [
            step / (steps.get("num_updates") or steps.milestones[-1]) for step in steps.milestones
        ]
        iterations = [str(round(share * settings.max_iter)) for share in shares if share < 1]
        text += f", steps at {', '.join(iterations)}"
    return f"{text}, an evaluation every {settings.eval_period or settings.max_iter}"


def _stretch_warmup(multiplier: Any, stretch: float, warmup_stretch: float) -> None:
    """Fits the warm-up to a training that is `stretch` times as long, in place.

    fvcore's schedulers work on shares of the training, so that their steps stay where they are. The
    warm-up becomes `warmup_stretch` times as many iterations as before.
    """
    if "warmup_length" not in multiplier:
        return
    length = multiplier.warmup_length * warmup_stretch / stretch
    longest = max(LONGEST_WARMUP, multiplier.warmup_length)
    if length > longest:
        logger.warning("The warm-up is shortened to %d %% of the training", 100 * longest)
    multiplier.warmup_length = min(length, longest)


def _stretched(iterations: int, factor: float) -> int:
    """A number of iterations for a longer or shorter training; 0, which means never, stays 0."""
    return max(round(iterations * factor), 1) if iterations else 0
