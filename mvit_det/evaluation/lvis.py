"""Evaluation on LVIS."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import detectron2.evaluation
import numpy as np
from detectron2.data import MetadataCatalog

from ..errors import ConfigError


class LVISEvaluator(detectron2.evaluation.LVISEvaluator):
    """Detectron2's LVIS evaluator: AP over all categories, and over rare, common and frequent ones.

    Args:
        dataset_name: a registered dataset in LVIS's format.
        arguments: any other of Detectron2's.

    Raises:
        ConfigError: the package ``lvis`` is not installed, or the dataset is in another format.
    """

    def __init__(self, dataset_name: str, **arguments: Any) -> None:
        if importlib.util.find_spec("lvis") is None:
            raise ConfigError(
                f"evaluation on '{dataset_name}' needs the package 'lvis', which training does "
                "not: run 'pip install lvis', then evaluate with '--eval-only --resume'"
            )
        if MetadataCatalog.get(dataset_name).get("evaluator_type") != "lvis":
            raise ConfigError(
                f"dataset '{dataset_name}' is not in LVIS's format; evaluate it with COCOEvaluator"
            )
        super().__init__(dataset_name, **arguments)

    def evaluate(self) -> dict[str, Any] | None:
        """As Detectron2's: metrics by task in percent; None in all processes but the main one."""
        with _former_numpy_name():
            return super().evaluate()


@contextlib.contextmanager
def _former_numpy_name() -> Iterator[None]:
    """Restores `np.float`, by which `lvis`, of 2020, still calls what NumPy calls `float`."""
    if hasattr(np, "float"):
        yield
        return
    setattr(np, "float", float)  # noqa: B010 (the name is not in NumPy's types)
    try:
        yield
    finally:
        delattr(np, "float")
