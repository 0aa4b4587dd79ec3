"""Evaluation of the model of a config."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from ..acceleration import accelerate
from ..checkpoint import Checkpointer, check_class_names, fill_model, read_weights
from ..checkpoint.files import disk_error
from ..checkpoint.state import is_sharded
from ..config.loading import build_model, prepare_output_dir
from ..config.validation import locate_target
from ..data import check_datasets
from ..data.loading import EvaluationLoader, explain_worker_deaths
from ..detection.build import has_views, wrap_detector
from ..errors import DISK_ERRORS, CheckpointError, OutputError
from ..evaluation import inference_on_dataset, save_report
from ..visualization import save_prediction_grid
from .hooks import unknown_metric
from .parallel import unsharded
from .validation_loss import ValidationLoss

logger = logging.getLogger(__name__)

# Folder of the results in the output folder.
EVALUATION = "evaluation"


class Evaluation:
    """Evaluates a model on the test dataset of a config, as often as it is called.

    The loader, and an evaluator for each folder of results, are built on first use and kept.
    """

    def __init__(self, config: DictConfig) -> None:
        """Creates the evaluation.

        Args:
            config: `dataloader.test`, `dataloader.evaluator`, `train` and, for test-time
                augmentation or slices, `inference` are used.

        Raises:
            DatasetError: files of the dataset are missing.
        """
        self.config = config
        self.dataset = config.dataloader.test.dataset.names
        check_datasets(self.dataset)
        self._evaluators: dict[str, DatasetEvaluator] = {}

    @cached_property
    def loader(self) -> EvaluationLoader:
        """The loader of the test dataset; of whole images where a detector has several views."""
        loader = self.config.dataloader.test
        if has_views(self.config.get("inference")):
            loader = copy.deepcopy(loader)
            loader.mapper.augmentations = []
        return instantiate(loader)

    @cached_property
    def _validation_loss(self) -> ValidationLoss | None:
        return ValidationLoss(self.config) if self.config.train.get("validation_loss") else None

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the classes that the evaluators know; [] if they are unknown."""
        # Loading the dataset makes them known.
        return class_names(self.config, self.dataset) if len(self.loader) else []

    def __call__(self, model: nn.Module, folder: str = EVALUATION) -> dict[str, Any]:
        """Evaluates the current weights, and writes metrics, plots and an image grid.

        Args:
            model: keeps its mode.
            folder: within `train.output_dir`, for predictions, the files of `save_report`, and the
                image grid.

        Returns:
            Metrics by task, such as `{"bbox": {"AP": …}, "segm": {"AP": …}}` in percent, and with
            `train.validation_loss` the losses as "validation"; {} in all ranks but the main
            process.

        Raises:
            ImageError: an image cannot be used, and `data.on_bad_image` is "raise".
            OutputError: a file cannot be written.
            TrainingError: a DataLoader worker died.
        """
        path = Path(self.config.train.output_dir) / folder
        with explain_worker_deaths(), _disk_errors_explained():
            path.mkdir(parents=True, exist_ok=True)
            # The loader first: it generates datasets that are missing.
            loader, evaluator = self.loader, self._evaluator(path)
            detector = self._detector(model)
            validation_loss = self._validation_loss
            with unsharded(model), _evaluation_mode(model):
                results = inference_on_dataset(detector, loader, evaluator)
                losses = validation_loss(model) if validation_loss else {}
            # A panoptic evaluator has one for instances.
            instances = getattr(evaluator, "instances", evaluator)
            save_report(instances, path)
            self._save_grid(getattr(instances, "predictions", None), path / "predictions.png")
            # Predictions of a whole dataset are large.
            evaluator.reset()
        return {**results, "validation": losses} if losses else results

    def _detector(self, model: nn.Module) -> Any:
        """The model, with test-time augmentation or slices if the config says so."""
        inference = self.config.get("inference")
        if not has_views(inference):
            return model
        resize = instantiate(self.config.dataloader.test.mapper.augmentations)
        return wrap_detector(model, inference, resize)

    def _evaluator(self, path: Path) -> DatasetEvaluator:
        if path.name not in self._evaluators:
            self._evaluators[path.name] = instantiate(
                {**self.config.dataloader.evaluator, "output_dir": str(path)}
            )
        return self._evaluators[path.name]

    def _save_grid(self, predictions: list[dict[str, Any]] | None, path: Path) -> None:
        """Draws predictions in COCO's format, where an evaluator has such."""
        images = self.config.train.visualized_images
        if predictions is None or not images or not comm.is_main_process():
            return
        save_prediction_grid(self.dataset, predictions, path, num_images=images)
        logger.info("Ground truth beside predictions: %s", path)


def check_best_metric(config: DictConfig) -> None:
    """Refuses a `train.best_metric` that the evaluator of a config does not compute.

    Metrics of a class, such as "bbox/AP-car", are known after the first evaluation only, as are
    those of evaluators without `metric_names`.

    Raises:
        ConfigError: names the metric and the closest ones.
    """
    name = config.train.best_metric
    evaluator = locate_target(config.dataloader.evaluator.get("_target_"))
    known = getattr(evaluator, "metric_names", ())
    if name and known and name not in known and "-" not in name:
        raise unknown_metric(name, known)


def evaluate(config: DictConfig, model: nn.Module, folder: str = EVALUATION) -> dict[str, Any]:
    """Evaluates a model once; see `Evaluation`."""
    return Evaluation(config)(model, folder)


def evaluate_checkpoint(
    config: DictConfig, resume: bool = False, trust_checkpoint: bool = False
) -> dict[str, Any]:
    """Evaluates the weights of `train.init_checkpoint`.

    Args:
        config: the config of the weights.
        resume: takes the last checkpoint in `train.output_dir` instead.
        trust_checkpoint: lets the file of weights run code while it is read.

    Returns:
        Metrics by task, as `Evaluation` returns them.

    Raises:
        CheckpointError: there are no weights, or they do not fit the model, or have other classes.
        ConfigError: the output folder cannot be written.
        DatasetError, ImageError, OutputError, TrainingError: as `Evaluation`.
    """
    prepare_output_dir(config)
    evaluation = Evaluation(config)
    model = build_model(config).to(config.train.device)
    path = config.train.init_checkpoint
    checkpointer = Checkpointer(model, config.train.output_dir, trust=trust_checkpoint)
    if resume:
        path = next(iter(checkpointer.checkpoints()), None)
        if path is None:
            raise CheckpointError(
                f"there is no checkpoint in '{config.train.output_dir}'; name the folder of a "
                "training with train.output_dir=…, or a file of weights instead of '--resume'"
            )
        # A run trusts its own shards, as when it resumes.
        trust_checkpoint = trust_checkpoint or is_sharded(path)
    if not path:
        raise CheckpointError(
            "there are no weights to evaluate: name a file with train.init_checkpoint=…, or use "
            "'--resume' for the last checkpoint in train.output_dir"
        )
    weights = read_weights(path, trust=trust_checkpoint)
    check_class_names(weights.metadata, evaluation.class_names, path)
    fill_model(model, weights, path)
    accelerate(model)
    return evaluation(model)


def class_names(config: DictConfig, dataset: str) -> list[str]:
    """Names of the classes: those in `data.class_names` of a config, or those of a dataset.

    Args:
        config: of the model.
        dataset: registered name. It has to be loaded before, as its names may be in its files.

    Returns:
        One name per class; [] if they are unknown.
    """
    own = config.get("data", {}).get("class_names", [])
    metadata = MetadataCatalog.get(dataset)
    return list(own or metadata.get("thing_classes") or metadata.get("classes") or [])


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switches to evaluation, and back even where the evaluation fails.

    Detectron2's context of this kind leaves the model as it is after an exception, so that a
    training that continues without an evaluation would get predictions for losses.
    """
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def _disk_errors_explained() -> Iterator[None]:
    """Turns errors of the disk into one sentence.

    Raises:
        OutputError: results cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = disk_error(error)
        if reason is None or reason.errno not in DISK_ERRORS:
            raise
        raise OutputError(
            f"cannot write results of the evaluation ({reason.strerror}); make room there, or "
            "choose another folder with train.output_dir=…"
        ) from error


def category_ids(config: DictConfig, dataset: str) -> list[int]:
    """The dataset's category id of each class, from the same places as `class_names`; or []."""
    class_of_category = MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id", {})
    own = config.get("data", {}).get("category_ids", [])
    return list(own or sorted(class_of_category, key=class_of_category.__getitem__))
