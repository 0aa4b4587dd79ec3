"""Running a model over a dataset, with progress shown meanwhile."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import detectron2.evaluation
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tqdm import tqdm


def inference_on_dataset(
    model: Callable[[list[dict]], list[dict]],
    data_loader: Iterable[list[dict]],
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, Any]:
    """Detectron2's ``inference_on_dataset`` with a progress bar.

    Where standard error is a terminal, a bar takes the place of Detectron2's log line every five
    seconds; elsewhere that line stays. Arguments and result are Detectron2's.
    """
    if not (comm.is_main_process() and sys.stderr.isatty()):
        return detectron2.evaluation.inference_on_dataset(model, data_loader, evaluator, callbacks)
    progress = tqdm(data_loader, desc="Evaluating", unit="batch", dynamic_ncols=True)
    with _without_progress_lines(), progress:
        return detectron2.evaluation.inference_on_dataset(model, progress, evaluator, callbacks)


@contextlib.contextmanager
def _without_progress_lines() -> Iterator[None]:
    inference_logger = logging.getLogger("detectron2.evaluation.evaluator")

    def is_other_line(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Inference done")

    inference_logger.addFilter(is_other_line)
    try:
        yield
    finally:
        inference_logger.removeFilter(is_other_line)
