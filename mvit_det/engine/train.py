"""Training from a config."""

import itertools
import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import Checkpointer
from ..config.loading import prepare_output_dir
from ..data import check_datasets
from ..data.loading import TrainingLoader
from ..data.seeding import derive_seed
from ..errors import CheckpointError, ConfigError
from ..modeling import MultiScaleTransformer
from .ema import ModelEMA
from .evaluate import class_names, evaluate
from .hooks import Checkpoints, Evaluations
from .monitoring import SpeedAndMemory, TrainingPlot, metric_writers
from .nonfinite import NonFiniteSteps
from .parallel import parallelize
from .stopping import TrainingStopped, stop_request
from .trainer import Trainer
from .writers import TolerantWriter

logger = logging.getLogger(__name__)


def train(
    config: DictConfig, resume: bool = False, trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Trains a model, evaluates it, and leaves checkpoints, logs and results in the output folder.

    In distributed training every process calls it.

    Args:
        config: `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`, see
            `configs/common/train.py`.
        resume: goes on from the last checkpoint in `train.output_dir` if there is one.
        trust_checkpoint: lets the file of weights run code while it is read.

    Returns:
        The metrics of the evaluation after the last iteration, as `evaluate` returns them, and
        those of averaged weights with "ema/" before the name of the task.

    Raises:
        ConfigError: the schedule is empty, a setting of `train` is out of its range, or the output
            folder cannot be written.
        DatasetError: files of a dataset are missing.
        ImageError: an image cannot be used, and `data.on_bad_image` is "raise".
        CheckpointError: weights to start from cannot be had, or do not fit the model; or the last
            checkpoint cannot be written; or processes find different ones to go on from.
        OutputError: results of the last evaluation cannot be written.
        TrainingError: the loss or its gradient stays infinite or NaN, or a process that loads
            images died.
        TrainingStopped: SIGTERM or Ctrl-C came, and the training can be resumed from there.
    """
    settings = config.train
    if settings.max_iter < 1:
        raise ConfigError(f"train.max_iter must be positive, not {settings.max_iter}")
    prepare_output_dir(config)
    check_datasets(config.dataloader.train.dataset.names, config.dataloader.test.dataset.names)

    seed = settings.seed if settings.seed >= 0 else comm.shared_random_seed()
    torch.manual_seed(derive_seed("weights", seed))
    model = instantiate(config.model)
    logger.info("Model:\n%s", model)
    # Weights first: what shards a model spreads what is there.
    loader = Checkpointer(
        model, settings.output_dir, trust=trust_checkpoint, reset_head=settings.reset_head
    )
    saved = loader.resume_or_load(settings.init_checkpoint, resume=resume)
    loader.remove_unfinished()
    _check_same_checkpoint(saved, settings.output_dir)
    model = parallelize(model, settings.strategy, settings.device, settings.ddp)
    if settings.compile:
        _compile_backbone(model)

    data_loader = instantiate(config.dataloader.train)
    checkpointer = Checkpointer(
        model, settings.output_dir, trust=trust_checkpoint, class_names=class_names(config)
    )
    with stop_request() as request:
        trainer = Trainer(
            model,
            data_loader,
            _build_optimizer(config, model),
            device=settings.device,
            seed=seed,
            grad_accum_steps=settings.grad_accum_steps,
            amp_dtype=settings.amp.dtype if settings.amp.enabled else None,
            max_grad_norm=settings.max_grad_norm,
            nonfinite=NonFiniteSteps(settings.max_nonfinite_steps, settings.output_dir),
            should_stop=lambda: bool(request),
        )
        evaluations = _register_hooks(trainer, config, checkpointer, resumed=bool(saved))
        start = 0
        if saved:
            trainer.load_state_dict(saved["trainer"])
            start = trainer.iter + 1
        trainer.train(start, settings.max_iter)
    if isinstance(data_loader, TrainingLoader):
        skipped = sorted(set(itertools.chain(*comm.all_gather(data_loader.skipped))))
        if skipped:
            logger.warning("Images that were skipped (%d):\n%s", len(skipped), "\n".join(skipped))
    if trainer.stopped:
        # Perhaps not every process was asked. Also, the first one to end would take those down that
        # still write or draw.
        raise TrainingStopped(max(comm.all_gather(request.signal)), trainer.iter + 1)
    return evaluations.results


def _check_same_checkpoint(saved: Mapping[str, Any], folder: str) -> None:
    """Makes sure that all processes go on from the same step, where they would wait forever else.

    Raises:
        CheckpointError: they do not.
    """
    found = comm.all_gather(saved.get("iteration"))
    if len(set(found)) > 1:
        steps = ", ".join("none" if step is None else str(step + 1) for step in found)
        raise CheckpointError(
            f"the processes find different checkpoints in '{folder}' (of iterations {steps}); let "
            "train.output_dir be a folder that all machines share"
        )


def _compile_backbone(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, MultiScaleTransformer):
            module.compile(fullgraph=True)


def _build_optimizer(config: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    # The config shall stay what can be written to a file.
    config.optimizer.params.pop("model")
    return optimizer


def _register_hooks(
    trainer: Trainer, config: DictConfig, checkpointer: Checkpointer, *, resumed: bool
) -> Evaluations:
    """Gives the trainer all its hooks, and returns the one that will have the metrics."""
    settings = config.train
    average = None
    if settings.ema.enabled:
        average = ModelEMA(trainer.model, settings.ema.decay, settings.ema.warmup)
    evaluations = Evaluations(
        lambda folder: evaluate(config, trainer.model, folder),
        settings.eval_period,
        checkpointer,
        best_metric=settings.best_metric,
        average=average,
        resumed=resumed,
    )
    writer = plot = None
    if comm.is_main_process():
        writers = map(TolerantWriter, metric_writers(settings.output_dir, settings.max_iter))
        writer = hooks.PeriodicWriter(list(writers), period=settings.log_period)
        plot = TrainingPlot(settings.output_dir, settings.eval_period)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            SpeedAndMemory(config.dataloader.train.total_batch_size, settings.device),
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            average,
            # Before an evaluation, which may take long and fail.
            Checkpoints(checkpointer, **settings.checkpointer),
            evaluations,
            writer,
            plot,
        ]
    )
    return evaluations
