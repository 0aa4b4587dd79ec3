"""Fitting a schedule to another batch, another length of training, or more parts of a batch."""

import logging
import math
from typing import Any

from detectron2.config import instantiate
from omegaconf import DictConfig

from ..errors import ConfigError

logger = logging.getLogger(__name__)

LONGEST_WARMUP = 0.1  # of the training, if the config does not have a longer one


def fit_schedule(
    config: DictConfig,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    grad_accum_steps: int | None = None,
) -> None:
    """Changes batch, length and learning rate of a config together, in place, and logs the result.

    The learning rate grows with the batch (linear rule: Goyal et al., "Accurate, Large Minibatch
    SGD", section 2.1); the warm-up sees as many images as before, and steps of the learning
    rate, evaluations and checkpoints stay at the same shares of the training.

    Args:
        config: with an `lr_multiplier` as the functions of `configs/common/schedule.py` make it.
        epochs: passes over the training images that have annotations; None keeps the number of
            images that the training sees.
        batch_size: images of a step, over all processes and parts; None keeps it.
        grad_accum_steps: parts in which each process sees its share of a batch; None keeps it.

    Raises:
        ConfigError: a number is not positive or not finite, or the config has no length to go by.
    """
    for name, number in (
        ("epochs", epochs),
        ("batch-size", batch_size),
        ("grad_accum_steps", grad_accum_steps),
    ):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"--{name} must be positive and finite, not {number}")
    if grad_accum_steps is not None:
        config.train.grad_accum_steps = grad_accum_steps
    before = config.dataloader.train.total_batch_size
    batch = batch_size or before
    old_iterations = config.train.max_iter
    if epochs is not None:
        images = len(instantiate(config.dataloader.train.dataset))
        iterations = max(round(epochs * images / batch), 1)
    elif old_iterations > 0:
        iterations = max(round(old_iterations * before / batch), 1)
    else:
        raise ConfigError("the config has no train.max_iter to go by; say how long with '--epochs'")

    if old_iterations > 0:
        stretch = iterations / old_iterations
        _stretch_warmup(config.lr_multiplier, stretch, before / batch)
        config.train.eval_period = _stretched(config.train.eval_period, stretch)
        checkpointer = config.train.checkpointer
        checkpointer.period = _stretched(checkpointer.period, stretch)
    config.train.max_iter = iterations
    config.dataloader.train.total_batch_size = batch
    config.optimizer.lr *= batch / before
    logger.info("%s", describe_schedule(config))


def describe_schedule(config: DictConfig) -> str:
    """One line on batch, length, learning rate and when it changes."""
    settings, multiplier = config.train, config.lr_multiplier
    text = (
        f"Schedule: {settings.max_iter} iterations of {config.dataloader.train.total_batch_size} "
        f"images in {settings.grad_accum_steps} part(s) per process, learning rate "
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

    fvcore's schedulers work on shares of the training, whatever they count in; so their steps stay
    where they are. But the warm-up shall be `warmup_stretch` times as long as it was.
    """
    if "warmup_length" not in multiplier:
        return
    length = multiplier.warmup_length * warmup_stretch / stretch
    longest = max(LONGEST_WARMUP, multiplier.warmup_length)
    if length > longest:
        logger.warning("The warm-up is cut to %d %% of the training", 100 * longest)
    multiplier.warmup_length = min(length, longest)


def _stretched(iterations: int, factor: float) -> int:
    """A number of iterations for a longer or shorter training; 0, which means never, stays 0."""
    return max(round(iterations * factor), 1) if iterations else 0
