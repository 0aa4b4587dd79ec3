"""Matching the weights of a file to the keys of a model, and the report of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import torch
from tabulate import tabulate
from torch import Tensor

from ..errors import CheckpointError
from .formats import Weights, find_geometry, find_root
from .resizing import (
    inflate_kernel,
    resize_absolute_table,
    resize_joint_table,
    resize_patch_embedding,
    resize_relative_table,
    resize_separate_table,
    splits_into_grid,
)

# "evaluate" (and resuming a training) needs every key of the model, "train" the whole backbone.
Purpose = Literal["train", "evaluate"]

_SEPARATE = ("pos_embed_class", "pos_embed_spatial", "pos_embed_temporal")
_MASK_HEAD = "roi_heads.mask_head."
_TAKE_CONFIG = "take the config that the weights were made with"


class KeyStatus(Enum):
    """Status of a key after loading."""

    LOADED = "loaded"
    RESIZED = "resized"
    DROPPED = "dropped on purpose"
    NEW = "new on purpose"
    ERROR = "error"


@dataclass(frozen=True)
class Entry:
    """One key of a load report.

    Attributes:
        key: its name in the model or, if the model does not have it, in the file.
        status: whether and how it was loaded.
        reason: why or how; equal for keys of a kind.
    """

    key: str
    status: KeyStatus
    reason: str = ""


@dataclass
class LoadReport:
    """Status of every key of a file of weights and of the model that loads it."""

    title: str
    entries: list[Entry] = field(default_factory=list)

    def add(self, key: str, status: KeyStatus, reason: str = "") -> None:
        """Adds a key."""
        self.entries.append(Entry(key, status, reason))

    def keys(self, status: KeyStatus) -> list[str]:
        """Keys with a status, in the order of loading."""
        return [entry.key for entry in self.entries if entry.status is status]

    @property
    def errors(self) -> list[Entry]:
        """Keys that keep the weights from being used."""
        return [entry for entry in self.entries if entry.status is KeyStatus.ERROR]

    def table(self) -> str:
        """Formats one line per status and reason: how many keys, why, and the first of them."""
        groups: dict[tuple[KeyStatus, str], list[str]] = {}
        for entry in self.entries:
            groups.setdefault((entry.status, entry.reason), []).append(entry.key)
        order = list(KeyStatus)
        rows = [
            (status.value, len(keys), reason, keys[0] + (", …" if len(keys) > 1 else ""))
            for (status, reason), keys in sorted(
                groups.items(), key=lambda item: order.index(item[0][0])
            )
        ]
        headers = ("status", "keys", "why", "such as")
        return f"{self.title}\n{tabulate(rows, headers, tablefmt='simple')}"


def match(
    weights: Weights,
    state: Mapping[str, Tensor],
    *,
    path: str,
    purpose: Purpose,
    reset_head: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Finds a weight for each key of a model, or a reason why it needs none.

    Args:
        weights: of a file.
        state: `state_dict` of the model; only names and shapes are read.
        path: of the file, for messages.
        purpose: of loading.
        reset_head: skips the layers whose shape depends on the classes.

    Returns:
        Weights for the model in its shapes, and the report. With errors in the report the weights
        are incomplete.

    Raises:
        CheckpointError: file and model hold models of different kinds.
    """
    source = weights.source
    if weights.root is not None:
        # The one choice of architecture that the names of the weights do not show.
        source += f", expand_attn={find_geometry(weights.tensors, weights.root).expand_attn}"
    matcher = _Matcher(weights, state, purpose, reset_head, f"'{path}' ({source})")
    matcher.check_kind(path)
    for name in weights.tensors:
        matcher.place(name)
    for key in state:
        if key not in matcher.seen:
            matcher.explain_missing(key)
    return matcher.filled, matcher.report


def check(report: LoadReport, path: str) -> None:
    """Raises the most telling error of a report, if it has any.

    Raises:
        CheckpointError: for different numbers of classes, else for the first key with another
            shape, else for the first error.
    """
    errors = report.errors
    if not errors:
        return
    for error in errors:
        if " classes, config has " in error.reason:
            raise CheckpointError(
                f"'{path}': {error.reason}; {_TAKE_CONFIG}, or train a new head for the "
                "config's classes with train.reset_head=True"
            )
    first = next((error for error in errors if "shape" in error.reason), errors[0])
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first.reason == "not in the file":
        problem = f"'{first.key}' of the model is not in the file"
    elif first.reason == "no place in the model":
        problem = f"'{first.key}' of the file has no place in the model"
    else:
        problem = f"'{first.key}' {first.reason}"
    raise CheckpointError(f"'{path}' does not fit the model: {problem}{others}; {_TAKE_CONFIG}")


def count_classes(tensors: Mapping[str, Tensor], name: str) -> int | None:
    """Counts the classes that a layer has outputs for; None if its shape depends on no classes.

    Args:
        tensors: weights by name.
        name: of a weight or bias among them.
    """
    rows = tensors[name].shape[0]
    if re.search(r"(^|\.)head\.(cls_score|bbox_pred)\.", name):
        # RetinaNet: for each anchor a score per class, and one box.
        boxes = tensors.get(name.replace(".cls_score.", ".bbox_pred."))
        return None if boxes is None or ".bbox_pred." in name else rows // (boxes.shape[0] // 4)
    if re.search(r"\.cls_score\.(weight|bias)$", name):
        return rows - 1  # the background
    if re.search(r"\.bbox_pred\.(weight|bias)$", name):
        return rows // 4
    if re.search(r"mask_head\.predictor\.(weight|bias)$", name):
        return rows
    if re.search(r"(^|bottom_up\.|classifier\.)head\.(weight|bias)$", name):
        return rows
    return None


class _Matcher:
    """The state of one `match`."""

    def __init__(
        self,
        weights: Weights,
        state: Mapping[str, Tensor],
        purpose: Purpose,
        reset_head: bool,
        title: str,
    ) -> None:
        self.weights = weights
        self.state = state
        self.training = purpose == "train"
        self.reset_head = reset_head
        self.report = LoadReport(title)
        self.filled: dict[str, Tensor] = {}
        self.seen: set[str] = set()

        self.root = find_root(state) or ""
        root = weights.root or ""
        # Between a detector and a backbone, the common part is loaded.
        if root.endswith(self.root):
            self.cut, self.prefix = root.removesuffix(self.root), ""
        elif self.root.endswith(root):
            self.cut, self.prefix = "", self.root.removesuffix(root)
        else:
            self.cut, self.prefix = root, self.root
        # The file of a backbone does not fill the rest of a detector.
        self.fills_all = weights.is_detector or all(key.startswith(self.root) for key in state)
        self.has_mask_head = any(key.startswith(_MASK_HEAD) for key in state)
        self.has_output_norms = any(
            re.match(r"scale\d+_norm\.", name.removeprefix(root)) for name in weights.tensors
        )
        # Other sizes are a mistake when a whole detector is evaluated or resumed.
        self.resizes = self.training or not weights.is_detector
        # Training on clips may start from images.
        first = f"{root}patch_embed.proj.weight"
        file_axes = weights.tensors[first].ndim if first in weights.tensors else 0
        model_axes = max((tensor.ndim for tensor in state.values()), default=0)
        self.inflates = self.training and (file_axes, model_axes) == (4, 5)

    def check_kind(self, path: str) -> None:
        """Raises an error if the file holds another kind or size of model."""
        if find_root(self.state) is None:
            return
        if self.weights.root is None:
            example = next(iter(self.weights.tensors), "nothing")
            raise CheckpointError(
                f"'{path}' holds no MViTv2 (there is no 'patch_embed.proj.weight' or no "
                f"'blocks.0.attn.qkv.weight'), but, for example, '{example}'"
            )
        if not self.training and not self.fills_all:
            raise CheckpointError(
                f"'{path}' holds a backbone without a detector's heads, so there is nothing to "
                "evaluate; train from it first, or name the weights of a detector"
            )
        file = find_geometry(self.weights.tensors, self.weights.root)
        model = find_geometry(self.state, self.root)
        if file.expand_attn != model.expand_attn:
            raise CheckpointError(
                f"'{path}' holds an MViTv2 that widens in the "
                f"{'attention' if file.expand_attn else 'MLP'} (expand_attn={file.expand_attn}, as "
                f"{'most have' if file.expand_attn else 'MViTv2-L of ImageNet-1K has'}), and the "
                f"model widens in the {'attention' if model.expand_attn else 'MLP'}; build it with "
                f"expand_attn={file.expand_attn}"
            )
        if f"{self.root}head.weight" in self.state and not self.inflates:
            self._check_class_token(path)
        # A model may have fewer stages than the file.
        if (file.embed_dim, file.depths[: len(model.depths)]) != (model.embed_dim, model.depths):
            raise CheckpointError(
                f"'{path}' holds an MViTv2 with embed_dim {file.embed_dim} and depths "
                f"{file.depths}, and the model has embed_dim {model.embed_dim} and depths "
                f"{model.depths}; {_TAKE_CONFIG}"
            )

    def _check_class_token(self, path: str) -> None:
        """Raises an error if only one of two classifiers has a class token."""
        root = self.weights.root
        in_file = f"{root}cls_token" in self.weights.tensors
        in_model = f"{self.root}cls_token" in self.state
        # Fine-tuning may drop the class token, evaluation may not.
        if in_file == in_model or (in_file and self.training):
            return
        if f"{root}head.weight" in self.weights.tensors:
            raise CheckpointError(
                f"'{path}' holds a classifier {'with' if in_file else 'without'} a class token, "
                f"and the model has {'one' if in_model else 'none'}; build it with "
                f"class_token={in_file}"
            )

    def place(self, name: str) -> None:
        """Decides on one weight of the file."""
        original = self.weights.original_names.get(name, name)
        if not name.startswith(self.cut):
            self.report.add(original, KeyStatus.DROPPED, "not part of a backbone")
            return
        key = self.prefix + name.removeprefix(self.cut)
        if key not in self.state:
            reason = self._reason_to_drop(key)
            status = KeyStatus.DROPPED if reason else KeyStatus.ERROR
            self.report.add(original, status, reason or "no place in the model")
            return
        self.seen.add(key)
        tensor, target = self.weights.tensors[name], self.state[key]
        if self.reset_head and self._knows_classes(name, key):
            self.report.add(key, KeyStatus.NEW, "reset head")
        elif tensor.shape == target.shape:
            self.filled[key] = tensor
            squeezed = name in self.weights.squeezed
            status = KeyStatus.RESIZED if squeezed else KeyStatus.LOADED
            self.report.add(key, status, "time axis of length 1 removed" if squeezed else "")
        else:
            self._resize(name, key)

    def _resize(self, original: str, key: str) -> None:
        tensor, target = self.weights.tensors[original], self.state[key]
        shape, wanted = tuple(tensor.shape), tuple(target.shape)
        name = key.removeprefix(self.root)
        how = ""
        if self.inflates and shape == (*wanted[:2], *wanted[3:]):
            self.filled[key] = inflate_kernel(tensor, wanted[2])
            how = "kernel of images, in the centre frame"
        elif self.resizes and len(shape) == len(wanted):
            if name.endswith(("rel_pos_h", "rel_pos_w", "rel_pos_t")) and shape[1:] == wanted[1:]:
                self.filled[key] = resize_relative_table(tensor, wanted[0])
                how = "relative positions, linear"
            elif name.endswith("rel_pos_joint") and shape[2] == wanted[2]:
                self.filled[key] = resize_joint_table(tensor, wanted[0], wanted[1])
                how = "relative positions, bilinear"
            elif name == "pos_embed" and shape[2] == wanted[2] and splits_into_grid(shape[1]):
                self.filled[key] = resize_absolute_table(tensor, wanted[1])
                how = "absolute positions, bicubic"
            elif name in ("pos_embed_spatial", "pos_embed_temporal") and shape[2] == wanted[2]:
                is_space = name == "pos_embed_spatial"
                self.filled[key] = resize_separate_table(tensor, wanted[1], is_space)
                how = "positions of space, bilinear" if is_space else "positions of time, linear"
            elif name == "patch_embed.proj.weight" and _swap_in(shape, wanted[1]) == wanted:
                self.filled[key] = resize_patch_embedding(tensor, wanted[1])
                how = f"channels of the image, {shape[1]} to {wanted[1]}"
        if how:
            self.report.add(key, KeyStatus.RESIZED, how)
            return
        in_file = count_classes(self.weights.tensors, original)
        in_model = count_classes(self.state, key)
        if in_file is not None and in_file != in_model:
            reason = f"file has {in_file} classes, config has {in_model}"
        else:
            reason = f"has shape {shape} in the file and {wanted} in the model"
        self.report.add(key, KeyStatus.ERROR, reason)

    def _knows_classes(self, name: str, key: str) -> bool:
        """Whether a layer has outputs for each class; boxes and masks may be one for all."""
        counts = [count_classes(self.weights.tensors, name), count_classes(self.state, key)]
        if None in counts:
            return False
        return ".cls_score." in key or counts != [1, 1]

    def _reason_to_drop(self, key: str) -> str:
        """Explains why a weight without a place in the model may be dropped; '' if it may not."""
        if re.search(r"(^|\.)pixel_(mean|std)$|\.cell_anchors\.\d+$", key):
            return "taken from the config"
        if key.endswith(".num_batches_tracked"):
            return "counter of a norm"
        if self.training and key.startswith(_MASK_HEAD) and not self.has_mask_head:
            return "mask head, which the model does not have"
        name = key.removeprefix(self.root) if key.startswith(self.root) else ""
        if name == "cls_token":
            return "class token"
        if self.inflates and name == "pos_embed":
            return "positions of images"
        if name.startswith(("norm.", "head.")):
            return "classifier"
        if re.match(r"scale\d+_norm\.", name):
            return "output that the model does not have"
        if re.match(r"blocks\.\d+\.", name):
            depths = find_geometry(self.state, self.root).depths
            if int(name.split(".")[1]) >= sum(depths):
                return "stage that the model does not have"
        return ""

    def explain_missing(self, key: str) -> None:
        """Decides on a key of the model that the file does not have."""
        name = key.removeprefix(self.root) if key.startswith(self.root) else None
        reason = ""
        if key.endswith(".num_batches_tracked"):
            reason = "counter of a norm"
        elif not self.training:
            pass
        elif name is None:
            reason = "" if self.fills_all else "FPN and heads"
        elif re.match(r"scale\d+_norm\.", name) and not self.has_output_norms:
            reason = "norms of the outputs"
        elif name.startswith("head.") and self.reset_head:
            reason = "reset head"
        elif self.inflates and name.endswith("rel_pos_t"):
            self.filled[key] = torch.zeros(self.state[key].shape)
            self.report.add(key, KeyStatus.RESIZED, "positions of time, zero for images")
            return
        elif self.inflates and name in ("cls_token", *_SEPARATE):
            reason = "class token and positions, which the image model does not have"
        status = KeyStatus.NEW if reason else KeyStatus.ERROR
        self.report.add(key, status, reason or "not in the file")


def _swap_in(shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    return (shape[0], channels, *shape[2:])
