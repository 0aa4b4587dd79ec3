"""Converting files of weights between formats."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .files import atomic_path, save_safetensors, save_torch
from .formats import Weights, to_slowfast, to_timm, to_torchvision, torchvision_shape
from .loading import check_finite, read_weights
from .matching import KeyStatus, LoadReport

# File extensions of each format, by which other programs recognise it.
# mvit_det: PyTorch's file with this project's names. safetensors: the same names in safetensors.
# detectron2: a pickle of arrays as in its zoo. timm: timm's names in PyTorch's file or safetensors.
# slowfast, torchvision: models for clips, in files and with names of these.
FORMATS = {
    "mvit_det": (".pth", ".pt"),
    "detectron2": (".pkl",),
    "timm": (".pth", ".pt", ".safetensors"),
    "safetensors": (".safetensors",),
    "slowfast": (".pyth", ".pth"),
    "torchvision": (".pth", ".pt"),
}
# Metadata of trainings that predictions need; formats of other libraries have no place for it.
KEPT = ("class_names", "category_ids")


def convert(
    source: str | Path,
    output: str | Path,
    to: str,
    *,
    overwrite: bool = False,
    trust: bool = False,
) -> LoadReport:
    """Reads weights of any format and writes them in another, value for value.

    Args:
        source: file or URL.
        output: the file to write, all or nothing.
        to: one of `FORMATS`. timm holds backbones and classifiers only: of a detector it gets the
            backbone. slowfast and torchvision hold models for clips only. mvit_det and safetensors
            keep class names and category ids.
        overwrite: replaces `output`.
        trust: as for `load_weights`.

    Returns:
        The status of each key of the file.

    Raises:
        CheckpointError: the weights cannot be read, or not be written.
    """
    if to not in FORMATS:
        raise CheckpointError(f"there is no format '{to}'; there are {', '.join(FORMATS)}")
    try:
        output = Path(output).expanduser()
        exists = output.exists()
    # Names that are too long, have a NUL, or are of an unknown user.
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"cannot write to {str(output)!r} ({error})") from error
    if output.suffix not in FORMATS[to]:
        raise CheckpointError(
            f"'{output}' should end in {' or '.join(FORMATS[to])}, the extension of {to} files"
        )
    if exists and not overwrite:
        raise CheckpointError(f"'{output}' exists already; name another file or use '--overwrite'")
    weights = read_weights(source, trust=trust)
    if weights.root is None:
        raise CheckpointError(f"'{source}' holds no MViTv2, so there is nothing to convert")
    check_finite(weights.tensors, source)
    names, dropped = _choose_names(weights, to)

    report = LoadReport(f"'{source}' ({weights.source}) to {to}")
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.tensors.items():
        original = weights.original_names.get(name, name)
        if name not in names:
            report.add(original, KeyStatus.DROPPED, dropped)
            continue
        # A view would write the memory of the whole tensor it belongs to.
        tensors[names[name]] = tensor.clone(memory_format=torch.contiguous_format)
        if to == "torchvision":
            tensors[names[name]] = tensors[names[name]].view(torchvision_shape(name, tensor))
        if name in weights.squeezed:
            report.add(names[name], KeyStatus.RESIZED, "time axis of length 1 removed")
        elif to == "detectron2" and tensor.dtype is torch.bfloat16:
            tensors[names[name]] = tensor.float()
            report.add(names[name], KeyStatus.RESIZED, "bfloat16 to float32, as NumPy lacks it")
        else:
            renamed = names[name] != original
            report.add(names[name], KeyStatus.LOADED, "renamed" if renamed else "")
    kept = KEPT if to in ("mvit_det", "safetensors") else ()
    metadata = {key: weights.metadata[key] for key in kept if key in weights.metadata}
    for key in weights.metadata:
        if key in metadata:
            report.add(key, KeyStatus.LOADED, "metadata")
        else:
            report.add(key, KeyStatus.DROPPED, "not weights")

    with atomic_path(output) as temporary:
        if to == "detectron2":
            _write_pickle(tensors, weights, temporary)
        elif output.suffix == ".safetensors":
            save_safetensors(tensors, temporary, metadata)
        elif to == "slowfast":
            save_torch({"model_state": tensors}, temporary)
        else:
            save_torch({"model": tensors, **metadata} if metadata else tensors, temporary)
    return report


def _choose_names(weights: Weights, to: str) -> tuple[dict[str, str], str]:
    """Maps the names of the weights to keep to their new ones; also says why others are dropped."""
    if to in ("slowfast", "torchvision"):
        if weights.tensors[f"{weights.root}patch_embed.proj.weight"].ndim != 5:
            raise CheckpointError(f"{to} files hold models for clips; these weights are of images")
        return (to_slowfast if to == "slowfast" else to_torchvision)(weights.tensors), ""
    if to != "timm":
        return {name: name for name in weights.tensors}, ""
    root = weights.root or ""
    backbone = {
        name.removeprefix(root): tensor
        for name, tensor in weights.tensors.items()
        if name.startswith(root)
    }
    return {root + name: new for name, new in to_timm(backbone).items()}, "not in timm's models"


def _write_pickle(tensors: dict[str, Tensor], weights: Weights, path: Path) -> None:
    content: dict[str, Any] = {
        "model": {name: tensor.numpy() for name, tensor in tensors.items()},
        "__author__": "mvit_det",
    }
    if not weights.is_detector:
        # Detectron2 then matches the backbone of a detector by suffixes of the names.
        content["matching_heuristics"] = True
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)
