"""Recognising the origin of weights, and mapping their names to this project's and back.

This project's names are those of Detectron2's MViT: `blocks.N.…` and `scaleN_norm.…`, under
`backbone.bottom_up.` in a detector. A classifier also has `norm.…`, `head.…` and `cls_token`.

| here              | facebookresearch/mvit | timm                                              |
|-------------------|-----------------------|---------------------------------------------------|
| `blocks.N.…`      | `blocks.N.…`          | `stages.S.blocks.B.…`                             |
| `blocks.N.proj.…` | `blocks.N.proj.…`     | `….shortcut_proj_attn.…`, `….shortcut_proj_mlp.…` |
| `head.…`          | `head.projection.…`   | `head.fc.…`                                       |

SlowFast, for clips, has the names of facebookresearch/mvit; torchvision's are in `_TORCHVISION`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError

_FIRST = "patch_embed.proj.weight"
_ATTENTION = "blocks.0.attn.qkv.weight"
# Embeddings of models for clips: names here and in torchvision.
_EMBEDDINGS = {
    "cls_token": "pos_encoding.class_token",
    "pos_embed_spatial": "pos_encoding.spatial_pos",
    "pos_embed_temporal": "pos_encoding.temporal_pos",
    "pos_embed_class": "pos_encoding.class_pos",
}
# Patterns of torchvision's names, and what replaces them.
_TORCHVISION = [
    *((rf"^{re.escape(theirs)}$", ours) for ours, theirs in _EMBEDDINGS.items()),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^head\.1\.", "head."),
    (r"\.attn\.project\.0\.", ".attn.proj."),
    (r"^(blocks\.\d+)\.project\.", r"\1.proj."),
    (r"\.attn\.pool_(\w)\.pool\.", r".attn.pool_\1."),
    (r"\.attn\.pool_(\w)\.norm_act\.0\.", r".attn.norm_\1."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
]


@dataclass(frozen=True)
class Weights:
    """Weights under this project's names.

    Attributes:
        source: origin, for messages.
        tensors: by name.
        original_names: names in the file, by name.
        squeezed: names of kernels whose time axis of length one was removed.
        metadata: other content of the file, such as the state of a training.
    """

    source: str
    tensors: dict[str, Tensor]
    original_names: dict[str, str] = field(default_factory=dict)
    squeezed: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> str | None:
        """`find_root` of the tensors."""
        return find_root(self.tensors)

    @property
    def is_detector(self) -> bool:
        """Whether there are weights outside of the backbone or classifier."""
        root = self.root or ""
        return any(not name.startswith(root) for name in self.tensors)


@dataclass(frozen=True)
class Geometry:
    """Size of an MViTv2, from the shapes of its weights.

    Attributes:
        embed_dim: channels of the first stage.
        depths: blocks of each stage.
        expand_attn: whether stages widen in the attention of their first block, as published for
            all but MViTv2-L of ImageNet-1K, and not in the MLP of the last block before.
    """

    embed_dim: int
    depths: tuple[int, ...]
    expand_attn: bool


def find_root(names: Iterable[str]) -> str | None:
    """Prefix of the names of an MViTv2, None where there is none.

    It is "" in a backbone and "backbone.bottom_up." in a detector.
    """
    names = set(names)
    roots = [name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST)]
    roots = [root for root in roots if root + _ATTENTION in names]
    return min(roots, key=len) if roots else None


def find_geometry(tensors: Mapping[str, Tensor], root: str) -> Geometry:
    """Reads the size of an MViTv2 off its weights.

    Args:
        tensors: by this project's names; some may be missing.
        root: from `find_root`.
    """
    prefix = re.escape(f"{root}blocks.")
    blocks = [int(match[1]) for name in tensors if (match := re.match(rf"{prefix}(\d+)\.", name))]
    # Channels inside attention, block by block; they double where a stage begins.
    widths: list[int] = []
    for block in range(max(blocks, default=-1) + 1):
        weight = tensors.get(f"{root}blocks.{block}.attn.qkv.weight")
        if weight is not None:
            widths.append(weight.shape[0] // 3)
        elif widths:
            widths.append(widths[-1])  # matching reports the missing key
    depths = tuple(len(list(stage)) for _, stage in groupby(widths))
    expand_attn = True
    for block, width in enumerate(widths):
        skip = tensors.get(f"{root}blocks.{block}.proj.weight")
        if skip is not None and skip.shape[0] != width:
            expand_attn = False
    return Geometry(tensors[root + _FIRST].shape[0], depths, expand_attn)


def recognise(content: Any, path: str) -> Weights:
    """Finds the weights in the content of a file, and renames them to this project's names.

    Args:
        content: from `read_file`.
        path: of the file, for messages.

    Raises:
        CheckpointError: there are no weights, or not those of an MViTv2.
    """
    table, source, metadata = _find_table(content, path)
    if others := [name for name in table if not isinstance(name, str)]:
        raise CheckpointError(f"'{path}' holds no weights: one has the name {others[0]!r}")
    raw = {name: _as_tensor(name, value, path) for name, value in table.items()}
    if any(re.search(r"(^|\.)stages\.0\.blocks\.0\.", name) for name in raw):
        source, names = "timm", _from_timm(raw)
    elif "conv_proj.weight" in raw and "pos_encoding.class_token" in raw:
        source, names = "torchvision", {name: _from_torchvision(name) for name in raw}
    else:
        names = {name: re.sub(r"(^|\.)head\.projection\.", r"\1head.", name) for name in raw}
        if any(name != ours for name, ours in names.items()):
            # Kernels of image models have a time axis of length 1 there.
            kernel = raw.get(_FIRST)
            for_clips = kernel is not None and kernel.ndim == 5 and kernel.shape[2] > 1
            source = "SlowFast" if for_clips else "facebookresearch/mvit"
    tensors, squeezed = {}, []
    for name, ours in names.items():
        tensor = raw[name]
        if tensor.ndim == 5 and tensor.shape[2] == 1:
            # Kernels of a model that is also trained on video, for a single frame.
            tensor = tensor.squeeze(2)
            squeezed.append(ours)
        if source == "torchvision" and ours in _EMBEDDINGS:
            tensor = tensor.view(1, -1, tensor.shape[-1])
        tensors[ours] = tensor
    return Weights(
        source, tensors, {ours: name for name, ours in names.items()}, tuple(squeezed), metadata
    )


def _find_table(content: Any, path: str) -> tuple[Mapping[str, Any], str, dict[str, Any]]:
    """Splits the content of a file into weights, their origin, and other content."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__} and no weights")
    sources = {
        "model_state": "facebookresearch/mvit",
        "model": "Detectron2's model zoo" if "__author__" in content else "mvit_det or Detectron2",
        "state_dict": "timm",
    }
    for key, source in sources.items():
        if isinstance(content.get(key), Mapping):
            return content[key], source, {k: v for k, v in content.items() if k != key}
    if not any(isinstance(value, (Tensor, np.ndarray)) for value in content.values()):
        found = ", ".join(f"'{key}'" for key in list(content)[:5]) or "nothing"
        raise CheckpointError(
            f"'{path}' holds no weights: they would be on top or under 'model', 'model_state' or "
            f"'state_dict', but there is {found}"
        )
    return content, "mvit_det", {}


def _as_tensor(name: str, value: Any, path: str) -> Tensor:
    if isinstance(value, (np.ndarray, np.generic)):
        value = torch.as_tensor(np.asarray(value))
    if isinstance(value, Tensor):
        kinds = {"complex": value.is_complex(), "sparse": value.layout is not torch.strided}
        kinds["without data (on the meta device)"] = value.is_meta
        if found := [kind for kind, applies in kinds.items() if applies]:
            raise CheckpointError(f"'{name}' in '{path}' is {found[0]}; save the weights again")
        return value.detach()
    raise CheckpointError(f"'{name}' in '{path}' is a {type(value).__name__} and not a tensor")


def _from_timm(names: Iterable[str]) -> dict[str, str]:
    """Maps timm's names to ours, with blocks numbered across stages."""
    blocks: dict[int, int] = {}
    for name in names:
        if match := re.search(r"(?:^|\.)stages\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    starts = dict(zip(sorted(blocks), accumulate((blocks[s] for s in sorted(blocks)), initial=0)))

    def rename(name: str) -> str:
        name = re.sub(
            r"(^|\.)stages\.(\d+)\.blocks\.(\d+)\.",
            lambda match: f"{match[1]}blocks.{starts[int(match[2])] + int(match[3])}.",
            name,
        )
        name = re.sub(r"\.shortcut_proj_(attn|mlp)\.", ".proj.", name)
        return re.sub(r"(^|\.)head\.fc\.", r"\1head.", name)

    return {name: rename(name) for name in names}


def _from_torchvision(name: str) -> str:
    for theirs, ours in _TORCHVISION:
        name = re.sub(theirs, ours, name)
    return name


def to_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """torchvision's name for each weight of a model for clips.

    torchvision has embeddings without the leading axes of length 1, see `torchvision_shape`.

    Args:
        tensors: by this project's names.
    """
    names = {}
    for ours in tensors:
        name = _EMBEDDINGS.get(ours, ours)
        name = re.sub(r"^patch_embed\.proj\.", "conv_proj.", name)
        name = re.sub(r"^head\.", "head.1.", name)
        name = re.sub(r"\.attn\.proj\.", ".attn.project.0.", name)
        name = re.sub(r"^(blocks\.\d+)\.proj\.", r"\1.project.", name)
        name = re.sub(r"\.attn\.pool_(\w)\.", r".attn.pool_\1.pool.", name)
        name = re.sub(r"\.attn\.norm_(\w)\.", r".attn.pool_\1.norm_act.0.", name)
        name = name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
        names[ours] = name
    return names


def to_slowfast(names: Iterable[str]) -> dict[str, str]:
    """SlowFast's name for each weight of a model for clips."""
    return {name: re.sub(r"^head\.", "head.projection.", name) for name in names}


def torchvision_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Shape of a weight in torchvision, by this project's name."""
    if name in ("cls_token", "pos_embed_class"):
        return (tensor.shape[-1],)
    return tuple(tensor.shape[1:] if name in _EMBEDDINGS else tensor.shape)


def to_timm(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Maps the names of a backbone or classifier to timm's; drops those that timm does not have.

    timm has one norm, after the last stage: `norm` of a classifier, and the norm of the last output
    of a backbone.

    Args:
        tensors: by this project's names, without a prefix.
    """
    geometry = find_geometry(tensors, "")
    places = [(stage, block) for stage, n in enumerate(geometry.depths) for block in range(n)]
    skip = "shortcut_proj_attn" if geometry.expand_attn else "shortcut_proj_mlp"
    outputs = [int(match[1]) for name in tensors if (match := re.match(r"scale(\d+)_norm", name))]
    last_norm = f"scale{max(outputs, default=0)}_norm."
    has_norm = "norm.weight" in tensors
    names = {}
    for name in tensors:
        if match := re.match(r"blocks\.(\d+)\.(proj\.)?", name):
            stage, block = places[int(match[1])]
            part = f"{skip}." if match[2] else ""
            names[name] = f"stages.{stage}.blocks.{block}.{part}{name[match.end() :]}"
        elif name.startswith("head."):
            names[name] = name.replace("head.", "head.fc.", 1)
        elif name.startswith(last_norm) and not has_norm:
            names[name] = name.replace(last_norm, "norm.", 1)
        elif not re.match(r"scale\d+_norm\.", name):
            names[name] = name
    return names
