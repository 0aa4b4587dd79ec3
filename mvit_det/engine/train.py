"""Training from a config."""

import logging
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import default_writers, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from omegaconf import DictConfig

from ..checkpoint import Checkpointer
from ..data import check_datasets
from ..errors import ConfigError
from .evaluate import evaluate
from .trainer import Trainer

logger = logging.getLogger(__name__)


def train(
    config: DictConfig, resume: bool = False, trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Trains a model, evaluates it, and leaves checkpoints, logs and results in the output folder.

    Args:
        config: `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`, see
            `configs/common/train.py`.
        resume: goes on from the last checkpoint in `train.output_dir` if there is one.
        trust_checkpoint: lets the file of weights run code while it is read.

    Returns:
        The metrics of the evaluation after the last iteration, as `evaluate` returns them.

    Raises:
        ConfigError: the schedule is empty.
        DatasetError: files of a data set are missing.
        CheckpointError: weights to start from cannot be had, or do not fit the model.
    """
    if config.train.max_iter < 1:
        raise ConfigError(f"train.max_iter must be positive, not {config.train.max_iter}")
    check_datasets(config.dataloader.train.dataset.names, config.dataloader.test.dataset.names)

    device = config.train.device
    model = instantiate(config.model).to(device)
    logger.info("Model:\n%s", model)
    if config.train.compile:
        model.backbone.bottom_up.compile(fullgraph=True)
    config.optimizer.params.model = model
    optimizer = instantiate(config.optimizer)
    # The config shall stay what can be written to a file.
    config.optimizer.params.pop("model")
    if device == "cpu":
        # Without a GPU, DistributedDataParallel must not be told one.
        model = create_ddp_model(model, device_ids=None, **config.train.ddp)
    else:
        model = create_ddp_model(model, **config.train.ddp)

    trainer = Trainer(
        model,
        instantiate(config.dataloader.train),
        optimizer,
        device=device,
        amp_dtype=config.train.amp.dtype if config.train.amp.enabled else None,
        clip_gradient_norm=config.train.clip_gradient_norm,
    )
    checkpointer = Checkpointer(
        model,
        config.train.output_dir,
        trust=trust_checkpoint,
        fresh_head=config.train.fresh_head,
        trainer=trainer,
    )
    results: dict[str, Any] = {}

    def evaluate_now() -> dict[str, Any]:
        results.clear()
        results.update(evaluate(config, model))
        return results

    is_main = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(config.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **config.train.checkpointer)
            if is_main
            else None,
            hooks.EvalHook(config.train.eval_period, evaluate_now),
            hooks.PeriodicWriter(
                default_writers(config.train.output_dir, config.train.max_iter),
                period=config.train.log_period,
            )
            if is_main
            else None,
        ]
    )
    checkpointer.resume_or_load(config.train.init_checkpoint, resume=resume)
    start = trainer.iter + 1 if resume and checkpointer.has_checkpoint() else 0
    trainer.train(start, config.train.max_iter)
    return results
