"""Checks of arguments and files that several predictors share."""

from numbers import Integral
from typing import Any

from ..errors import ConfigError, ExportError
from .metadata import Metadata

# The classes that load a file for each task.
LOADERS = {
    "detection": "OnnxPredictor or OpenVinoPredictor",
    "classification": "OnnxClassifier or OpenVinoClassifier",
    "video_classification": "OnnxVideoClassifier or OpenVinoVideoClassifier",
}


def check_task(metadata: Metadata, task: str) -> None:
    """Checks that a file is for a task.

    Raises:
        ExportError: it is for another one.
    """
    if metadata.task == task:
        return
    remedy = "export the whole detector"
    if metadata.task in LOADERS:
        remedy = f"load it with {LOADERS[metadata.task]}"
    raise ExportError(
        f"the file with the config '{metadata.config}' is for the task '{metadata.task}', not "
        f"'{task}'; {remedy}"
    )


def check_count(name: str, number: Any) -> None:
    """Accepts integers of at least 1.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(number, Integral) or number < 1:
        raise ConfigError(f"{name} is {number!r}; it must be an integer of at least 1")
