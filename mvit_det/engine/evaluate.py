"""Evaluation from a config."""

import copy
import errno
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..checkpoint import Checkpointer, load_weights
from ..checkpoint.writing import disk_error
from ..config.loading import prepare_output_dir
from ..data import check_datasets
from ..data.workers import deaths_of_workers_explained
from ..detection.build import wrap_detector
from ..errors import CheckpointError, OutputError
from ..evaluation import inference_on_dataset, save_report
from ..visualization import save_prediction_grid
from .parallel import unsharded

logger = logging.getLogger(__name__)


# What a disk answers that is full, broken, or mounted for reading.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def _refusals_explained() -> Iterator[None]:
    """Says in one sentence that the disk takes no results.

    Raises:
        OutputError: it takes none.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = disk_error(error)
        if reason is None or reason.errno not in _REFUSALS:
            raise
        raise OutputError(
            f"cannot write results of the evaluation ({reason.strerror}); make room there, or "
            "choose another folder with train.output_dir=…"
        ) from error


@deaths_of_workers_explained()
@_refusals_explained()
def evaluate(
    config: DictConfig, model: nn.Module, folder: str | Path = "evaluation"
) -> dict[str, Any]:
    """Evaluates a model, and draws its metrics and some of its predictions.

    Args:
        config: `dataloader.test`, `dataloader.evaluator`, `train` and, for test-time augmentation
            or slices, `inference` are used.
        model: the detector; its mode stays as it was.
        folder: within `train.output_dir`, for predictions, the files of `save_report`, and the
            grid of images.

    Returns:
        Metrics by task, `{"bbox": {"AP": …}, "segm": {"AP": …}}` in percent; empty in all
        processes but the main one.

    Raises:
        ImageError: an image cannot be used, and `data.on_bad_image` is "raise".
        OutputError: a file cannot be written.
        TrainingError: a process that loads images died.
    """
    dataset = config.dataloader.test.dataset.names
    check_datasets(dataset)
    folder = Path(config.train.output_dir) / folder
    folder.mkdir(parents=True, exist_ok=True)
    evaluator = instantiate({**config.dataloader.evaluator, "output_dir": str(folder)})
    detector, loader = _with_views(config, model)
    with unsharded(model), inference_context(model):
        results = inference_on_dataset(detector, instantiate(loader), evaluator)
    save_report(evaluator, folder)
    if comm.is_main_process() and config.train.visualized_images:
        grid = folder / "predictions.png"
        save_prediction_grid(
            dataset,
            json.loads((folder / "coco_instances_results.json").read_text()),
            grid,
            num_images=config.train.visualized_images,
        )
        logger.info("Ground truth beside predictions: %s", grid)
    return results


def _with_views(config: DictConfig, model: nn.Module) -> tuple[Any, DictConfig]:
    """The model and its test loader; with test-time augmentation or slices, for whole images."""
    loader = config.dataloader.test
    inference = config.get("inference")
    if not inference:
        return model, loader
    wrapper = wrap_detector(model, inference, instantiate(loader.mapper.augmentations))
    if wrapper is None:
        return model, loader
    loader = copy.deepcopy(loader)
    loader.mapper.augmentations = []
    return wrapper, loader


def evaluate_checkpoint(
    config: DictConfig, resume: bool = False, trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Evaluates the weights of `train.init_checkpoint`.

    Args:
        config: the config the weights were trained with.
        resume: prefers the last checkpoint in `train.output_dir` if there is one.
        trust_checkpoint: lets the file of weights run code while it is read.

    Returns:
        As `evaluate`.

    Raises:
        CheckpointError: there are no weights, or they do not fit the model.
        ConfigError: the output folder cannot be written.
        ImageError, OutputError, TrainingError: as `evaluate`.
    """
    prepare_output_dir(config)
    check_datasets(config.dataloader.test.dataset.names)
    model = instantiate(config.model).to(config.train.device)
    path = config.train.init_checkpoint
    if resume:
        path = next(iter(Checkpointer(model, config.train.output_dir).checkpoints()), path)
    if not path:
        raise CheckpointError(
            "there are no weights to evaluate: name a file with train.init_checkpoint=…, or use "
            "'--resume' for the last checkpoint in train.output_dir"
        )
    load_weights(model, path, purpose="evaluate", trust=trust_checkpoint)
    return evaluate(config, model)


def class_names(config: DictConfig) -> list[str]:
    """Names of the classes that a config trains: its own, or those of its training data.

    They are known once the dataset has been loaded; [] if the dataset does not name them.
    """
    own = config.get("data", {}).get("class_names", [])
    names = config.dataloader.train.dataset.names
    registered = names if isinstance(names, str) else names[0]
    return list(own or MetadataCatalog.get(registered).get("thing_classes", []))
