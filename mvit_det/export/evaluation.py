"""Metrics of an exported file, with the evaluator of its config."""

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from tabulate import tabulate

from ..data import load_records
from ..engine import evaluate_checkpoint
from ..runtime import RuntimeClassifier, RuntimePrediction, RuntimePredictor
from ..runtime.loading import AnyPredictor, make_predictor
from ..runtime.sessions import OPENVINO_PRECISIONS, OnnxSession, OpenVinoSession, Session
from .torch_session import TorchSession

# By task ("bbox", "segm", "classification") and name ("AP", "top1", …), in percent.
Metrics = dict[str, dict[str, float]]

TITLES = {("bbox", "AP"): "box AP", ("segm", "AP"): "mask AP", ("classification", "top1"): "top-1"}


def open_session(path: Path, **options: Any) -> Session:
    """Loads an exported file of any format, for one image or view at a time.

    Options are those of `OpenVinoSession`.

    Raises:
        ExportError: the file cannot be loaded, or an extra is not installed.
    """
    if path.suffix == ".xml":
        return OpenVinoSession(path, batch=1, **options)
    return OnnxSession(path) if path.suffix == ".onnx" else TorchSession(path)


def evaluate_pytorch(config: DictConfig, weights: str | Path) -> Metrics:
    """Evaluates weights in PyTorch as the config says, on the CPU and without writing results."""
    with _without_output(config) as config:
        config.train.device = "cpu"
        config.train.init_checkpoint = str(weights)
        metrics: Metrics = evaluate_checkpoint(config)
    return metrics


def evaluate_file(path: Path, config: DictConfig) -> Iterator[tuple[str, Metrics]]:
    """Evaluates an exported file, one of OpenVINO in fp32 in both its precisions.

    Yields:
        A name of the runtime and precision, and the metrics.
    """
    session = open_session(path)
    precisions = ["fp32"]
    if path.suffix == ".xml" and session.metadata.precision == "fp32":
        precisions = list(OPENVINO_PRECISIONS)
    for precision in precisions:
        if precision != "fp32":
            session = open_session(path, precision=precision)
        predictor = make_predictor([session])
        runtime = {".xml": "OpenVINO", ".onnx": "ONNX Runtime", ".pt2": "torch.export"}[path.suffix]
        kind = precision if session.metadata.precision == "fp32" else session.metadata.precision
        with _without_output(config) as copied:
            yield f"{runtime} {kind}", evaluate(predictor, copied)


def format_metrics(rows: Iterable[tuple[str, Metrics]]) -> str:
    """A Markdown table with the main metric of each task."""
    rows = list(rows)
    titles = {key: title for key, title in TITLES.items() if key[0] in rows[0][1]}
    lines = [
        [name, *(f"{metrics[task][metric]:.2f}" for task, metric in titles)]
        for name, metrics in rows
    ]
    return tabulate(lines, ["of", *titles.values()], "github", disable_numparse=True)


def evaluate(predictor: AnyPredictor, config: DictConfig, limit: int | None = None) -> Metrics:
    """Evaluates as an evaluation of the config does.

    Args:
        predictor: of the exported file.
        config: of the model; its `dataloader.test.dataset` and `dataloader.evaluator` are used, and
            for videos the number of clips of `dataloader.test.mapper`.
        limit: number of images or videos, from the first; None takes all.

    Returns:
        The metrics of all tasks.
    """
    dataset = config.dataloader.test.dataset
    is_detector = isinstance(predictor, RuntimePredictor)
    records = (
        load_records(dataset.names, filter_empty=False) if is_detector else instantiate(dataset)
    )
    predict = _make_predict(predictor, config)
    evaluator = instantiate(config.dataloader.evaluator)
    evaluator.reset()
    for record in itertools.islice(records, limit):
        evaluator.process([record], [predict(record)])
    metrics: Metrics = evaluator.evaluate()
    return metrics


def _make_predict(
    predictor: AnyPredictor, config: DictConfig
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from a record of the dataset to what the evaluator takes."""
    if isinstance(predictor, RuntimePredictor):
        return lambda record: {"instances": _instances(predictor(record["file_name"]))}
    if isinstance(predictor, RuntimeClassifier):
        return lambda record: {"scores": torch.from_numpy(predictor.scores(record["file_name"]))}
    mapper = instantiate(config.dataloader.test.mapper)
    metadata = predictor.session.metadata
    mapper.image_size, mapper.short_side = metadata.size[0], metadata.short_edge

    def score(record: dict[str, Any]) -> dict[str, Any]:
        views = mapper(record)["image"].numpy()
        return {"scores": torch.from_numpy(predictor.scores(views))}

    return score


@contextmanager
def _without_output(config: DictConfig) -> Iterator[DictConfig]:
    """A copy of a config whose results go to a temporary folder."""
    config = copy.deepcopy(config)
    config.train.visualized_images = 0
    with tempfile.TemporaryDirectory() as folder:
        config.train.output_dir = folder
        yield config


def _instances(prediction: RuntimePrediction) -> Instances:
    fields: dict[str, Any] = {
        "pred_boxes": Boxes(torch.from_numpy(prediction.boxes)),
        "scores": torch.from_numpy(prediction.scores),
        "pred_classes": torch.from_numpy(prediction.classes),
    }
    if prediction.masks is not None:
        fields["pred_masks"] = torch.from_numpy(prediction.masks)
    return Instances(prediction.image.shape[:2], **fields)
