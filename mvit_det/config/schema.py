"""The fields of `train` and `data` in a config, and what each may hold.

A new field is a line here, one with its default in `configs/common/`, and one in
`docs/configuration.md`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.loading import BAD_IMAGE_POLICIES

# How several processes share the work, see `engine.parallel`.
STRATEGIES = ("ddp", "fsdp")

_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "an integer",
    list: "a list of strings",
    str: "a text",
}


@dataclass(frozen=True)
class Field:
    """What a field may hold; as a text, it says so.

    Attributes:
        kind: type of the value; an integer will do where it is float.
        least, below: bounds of a number; None is any.
        choices: of a text; none is any.
    """

    kind: type
    least: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            *others, last = (f"'{choice}'" for choice in self.choices)
            return f"{', '.join(others)} or {last}"
        bounds = []
        if self.least is not None:
            bounds.append(f"of at least {self.least:g}")
        if self.below is not None:
            bounds.append(f"below {self.below:g}")
        return f"{_KINDS[self.kind]} {' and '.join(bounds)}".rstrip()

    def demand(self, value: Any) -> str | None:
        """What the value has to be and is not; None if the field may have it."""
        if not self._is_of_kind(value):
            return str(self) if self.choices else _KINDS[self.kind]
        is_allowed = (
            (not self.choices or value in self.choices)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
        )
        return None if is_allowed else str(self)

    def _is_of_kind(self, value: Any) -> bool:
        if self.kind is list:
            return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        if self.kind not in (int, float):
            return isinstance(value, self.kind)
        # True is a number to Python.
        kinds = (int, float) if self.kind is float else int
        return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)


FIELDS: Mapping[str, Field] = {
    "train.output_dir": Field(str),
    "train.init_checkpoint": Field(str),
    "train.reset_head": Field(bool),
    "train.device": Field(str),
    "train.seed": Field(int),
    "train.max_iter": Field(int, least=0),
    "train.amp.enabled": Field(bool),
    "train.amp.dtype": Field(str, choices=("auto", "bf16", "fp16")),
    "train.compile": Field(bool),
    "train.max_grad_norm": Field(float, least=0),
    "train.grad_accum_steps": Field(int, least=1),
    "train.ema.enabled": Field(bool),
    "train.ema.decay": Field(float, least=0, below=1),
    "train.ema.warmup": Field(int, least=0),
    "train.best_metric": Field(str),
    "train.max_nonfinite_steps": Field(int, least=0),
    "train.strategy": Field(str, choices=STRATEGIES),
    "train.ddp.broadcast_buffers": Field(bool),
    "train.ddp.find_unused_parameters": Field(bool),
    "train.ddp.fp16_compression": Field(bool),
    "train.checkpointer.period": Field(int, least=1),
    "train.checkpointer.keep_last": Field(int, least=1),
    "train.eval_period": Field(int, least=0),
    "train.log_period": Field(int, least=1),
    "train.visualized_images": Field(int, least=0),
    "data.train_json": Field(str),
    "data.train_images": Field(str),
    "data.val_json": Field(str),
    "data.val_images": Field(str),
    "data.class_names": Field(list),
    "data.on_bad_image": Field(str, choices=BAD_IMAGE_POLICIES),
}


# Entries of a config that may be left out as a whole.
OPTIONAL = ("data",)


def names_below(group: str) -> list[str]:
    """Names of the fields and groups right below a group, such as `train` or `train.amp`."""
    inner = (path[len(group) + 1 :] for path in FIELDS if path.startswith(f"{group}."))
    return list(dict.fromkeys(path.partition(".")[0] for path in inner))


def is_group(path: str) -> bool:
    """Whether there are fields below this path."""
    return any(field.startswith(f"{path}.") for field in FIELDS)
