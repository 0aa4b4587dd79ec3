"""Training of the model of a config."""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import hooks
from detectron2.utils import comm
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..acceleration import accelerate
from ..checkpoint import Checkpointer
from ..checkpoint.state import from_main_process
from ..config.custom_dataset import check_classes
from ..config.loading import build_model, prepare_output_dir
from ..data import check_datasets
from ..data.catalog import forget_annotations, load_classes
from ..data.loading import TrainingLoader
from ..data.sampling import derive_seed
from ..errors import ConfigError
from ..modeling import MultiScaleTransformer
from .ema import ModelEMA
from .evaluate import Evaluation, category_ids, check_best_metric, class_names
from .hooks import Checkpoints, Evaluations
from .loggers import check_loggers, tracker_writers
from .monitoring import ProgressBar, SpeedAndMemory, TrainingPlot, metric_writers
from .nonfinite import NonFiniteSteps
from .parallel import parallelize
from .stopping import TrainingStopped, stop_request
from .trainer import Trainer
from .validation_loss import check_validation_loss

logger = logging.getLogger(__name__)


def train(
    config: DictConfig, resume: bool = False, trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Trains a model, evaluates it, and writes checkpoints, logs and results to the output folder.

    In distributed training every rank calls it.

    Args:
        config: `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`, see
            `configs/common/train.py`.
        resume: continues from the last checkpoint in `train.output_dir` if there is one.
        trust_checkpoint: lets the file of weights run code while it is read.

    Returns:
        Metrics of the evaluation after the last iteration, by task; those of the EMA with the
        prefix "ema/".

    Raises:
        ConfigError: the schedule is empty, a setting of `train` is out of its range, the model has
            another number of classes than its dataset, or the output folder cannot be written.
        DatasetError: files of a dataset are missing or have errors, or the classes for training
            and for evaluation differ.
        ImageError: an image cannot be used, and `data.on_bad_image` is "raise".
        CheckpointError: weights to start from cannot be read or do not fit the model; or the
            checkpoint to resume has other classes; or the last checkpoint cannot be written.
        OutputError: results of the last evaluation cannot be written.
        TrainingError: another training writes to the output folder; or the loss or its gradient
            stays infinite or NaN; or a DataLoader worker died.
        TrainingStopped: SIGTERM or Ctrl-C arrived.
    """
    settings = config.train
    if settings.max_iter < 1:
        raise ConfigError(f"train.max_iter must be positive, not {settings.max_iter}")
    check_best_metric(config)
    _check_settings(config)
    prepare_output_dir(config)
    check_datasets(config.dataloader.train.dataset.names, config.dataloader.test.dataset.names)
    seed = settings.seed if settings.seed >= 0 else comm.shared_random_seed()

    data_loader = instantiate(config.dataloader.train)
    dataset = _first(config.dataloader.train.dataset.names)
    validation = config.dataloader.test.dataset.names
    load_classes(validation)
    names = {each: class_names(config, each) for each in (dataset, validation)}
    check_classes(config.model, names)
    forget_annotations(but=validation)
    model = _build_model(config, seed)
    checkpointer = Checkpointer(
        model,
        settings.output_dir,
        trust=trust_checkpoint,
        reset_head=settings.reset_head,
        class_names=names[dataset],
        category_ids=category_ids(config, dataset),
        sharded=settings.checkpointer.get("sharded", False),
    )
    with _locked(checkpointer):
        resumed = checkpointer.resume_or_load(settings.init_checkpoint, resume=resume)
        if settings.compile:
            _compile_transformers(model)
        optimizer = _build_optimizer(config, model)
        with stop_request() as request:
            trainer = Trainer(
                model,
                data_loader,
                optimizer,
                device=settings.device,
                seed=seed,
                grad_accum_steps=settings.grad_accum_steps,
                amp_dtype=settings.amp.dtype if settings.amp.enabled else None,
                max_grad_norm=settings.max_grad_norm,
                nonfinite=NonFiniteSteps(settings.max_nonfinite_steps, settings.output_dir),
                should_stop=lambda: bool(request),
            )
            evaluations = _register_hooks(trainer, config, checkpointer, resumed is not None)
            start = 0
            if resumed is not None:
                resumed.restore(trainer)
                start = trainer.iter + 1
            trainer.train(start, settings.max_iter)
        _report_skipped_images(data_loader)
        if trainer.stopped:
            # Perhaps not every rank got the signal.
            number = max(comm.all_gather(request.signal))
            raise TrainingStopped(number, trainer.iter + 1, checkpointer.last_name())
    return evaluations.results


def _check_settings(config: DictConfig) -> None:
    """Raises a `ConfigError` about what a logger or an evaluation would find out much later."""
    settings = config.train
    check_loggers(settings.loggers)
    if settings.validation_loss:
        check_validation_loss(config)
    if settings.best_metric.endswith("loss"):
        raise ConfigError(
            f"train.best_metric='{settings.best_metric}' is a loss, and the highest value "
            "counts as the best; choose a metric such as bbox/AP"
        )
    if settings.early_stopping and not (settings.best_metric and settings.eval_period):
        raise ConfigError(
            f"train.early_stopping={settings.early_stopping} needs a train.best_metric and a "
            f"train.eval_period above 0, not '{settings.best_metric}' and {settings.eval_period}"
        )


def _build_model(config: DictConfig, seed: int) -> nn.Module:
    """Builds the model, with the same random weights in every rank, and distributes it."""
    torch.manual_seed(derive_seed("weights", seed))
    model = build_model(config)
    logger.info("Model:\n%s", model)
    settings = config.train
    if torch.device(settings.device).type == "cpu":
        accelerate(model)
    return parallelize(model, settings.strategy, settings.device, settings.ddp)


@contextlib.contextmanager
def _locked(checkpointer: Checkpointer) -> Iterator[None]:
    """Keeps other trainings out of the output folder, and deletes stale temporary files."""
    with contextlib.ExitStack() as lock:

        def acquire() -> None:
            if checkpointer.folder:
                lock.enter_context(checkpointer.folder.locked())
                checkpointer.folder.remove_unfinished()

        from_main_process(acquire)
        yield


def _compile_transformers(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, MultiScaleTransformer):
            module.compile(fullgraph=True)


def _build_optimizer(config: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    # The config has to stay writable to a file.
    config.optimizer.params.pop("model")
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, ListConfig):
                group[name] = OmegaConf.to_container(value)
    return optimizer


def _register_hooks(
    trainer: Trainer, config: DictConfig, checkpointer: Checkpointer, resumed: bool
) -> Evaluations:
    """Registers all hooks, and returns the one that will have the metrics."""
    settings = config.train
    ema = None
    if settings.ema.enabled:
        ema = ModelEMA(trainer.model, settings.ema.decay, settings.ema.warmup)
    evaluation = Evaluation(config)
    evaluations = Evaluations(
        lambda folder: evaluation(trainer.model, folder),
        settings.eval_period,
        checkpointer,
        best_metric=settings.best_metric,
        patience=settings.early_stopping,
        ema=ema,
        resumed=resumed,
    )
    writer = plot = progress = None
    if comm.is_main_process():
        writers = metric_writers(
            settings.output_dir, settings.max_iter, "tensorboard" in settings.loggers
        )
        writers += tracker_writers(config, resumed)
        writer = hooks.PeriodicWriter(writers, period=settings.log_period)
        plot = TrainingPlot(settings.output_dir, settings.eval_period)
        progress = ProgressBar()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            SpeedAndMemory(config.dataloader.train.total_batch_size, settings.device),
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            ema,
            # Before an evaluation, which may take long and fail.
            Checkpoints(
                checkpointer, settings.checkpointer.period, settings.checkpointer.keep_last
            ),
            evaluations,
            writer,
            plot,
            progress,
        ]
    )
    return evaluations


def _report_skipped_images(data_loader: Any) -> None:
    if isinstance(data_loader, TrainingLoader):
        skipped = sorted(set(itertools.chain(*comm.all_gather(data_loader.skipped))))
        if skipped:
            logger.warning("Images that were skipped (%d):\n%s", len(skipped), "\n".join(skipped))


def _first(names: Any) -> str:
    """The first of the datasets of a loader, which takes one name or a list."""
    return names if isinstance(names, str) else names[0]
