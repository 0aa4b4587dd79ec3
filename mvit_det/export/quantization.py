"""Post-training quantisation to int8 with NNCF, for OpenVINO."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, ExportError
from ..runtime.metadata import KEY, Metadata
from ..runtime.preprocessing import load_image, prepare_inputs, read_clips
from ..runtime.sessions import check_file, import_extra, openvino_core

# Names of nodes, which are named after modules, by group of layers.
GROUPS = {
    "patch_embed": r"(backbone|classifier).*patch_embed/.*",
    "attention": r"(backbone|classifier).*blocks\.\d+\.attn.*",
    "mlp": r"(backbone|classifier).*blocks\.\d+(\.mlp.*|/.*|\.proj/.*)",
    "classifier_head": r"classifier\.head.*",
    "fpn": r"backbone\.(fpn_|top_block).*|backbone/.*",
    "rpn": r"rpn.*",
    "box_head": r"heads\.box_head.*",
    "box_predictor": r"heads\.box_predictor.*",
    "mask_head": r"heads\.mask_head.*",
    "dense_head": r"head\..*",
}
# Positions, scores and boxes outside of layers are not quantised at all.
ARITHMETIC = r"graph/.*"


def groups_of(path: str | Path) -> list[str]:
    """Names of the `GROUPS` that an OpenVINO file has layers of.

    Raises:
        ExportError: OpenVINO is not installed, or the file does not exist.
    """
    core = openvino_core()
    check_file(path, ".xml")
    names = [node.get_friendly_name() for node in core.read_model(str(path)).get_ops()]
    return [
        group
        for group, pattern in GROUPS.items()
        if any(re.fullmatch(pattern, name) for name in names)
    ]


def quantize(
    path: str | Path, sources: Iterable[Any], keep: Sequence[str] = ()
) -> tuple[Any, Metadata]:
    """Quantises an OpenVINO file.

    Args:
        path: an `.xml` file in fp32 that `tools/export.py` wrote.
        sources: images or videos for calibration, some dozens that look like those in use: paths,
            of videos for their first clips; images as arrays (H, W, 3), or clips as arrays
            (views, 3, T, S, S).
        keep: names of `GROUPS` that stay in higher precision.

    Returns:
        The quantised model of OpenVINO, and its metadata.

    Raises:
        ConfigError: a group is unknown.
        ExportError: NNCF or OpenVINO is not installed, the file cannot be used, or there are no
            images or videos.
        ImageError: an image or video cannot be read.
    """
    core, nncf = openvino_core(), import_extra("nncf", "openvino")
    unknown = [name for name in keep if name not in GROUPS]
    if unknown:
        raise ConfigError(f"'{unknown[0]}' is none of the groups {', '.join(GROUPS)}")
    check_file(path, ".xml")
    model = core.read_model(str(path))
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    metadata = Metadata.from_json(text, str(path))
    inputs = [_inputs(source, metadata) for source in sources]
    if not inputs:
        raise ExportError("there are no images or videos to calibrate int8 with; name some")
    quantized = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(
            patterns=[ARITHMETIC, *(GROUPS[name] for name in keep)], validate=False
        ),
    )
    return quantized, metadata


def _inputs(source: Any, metadata: Metadata) -> list[np.ndarray]:
    """The inputs of the model for an image, a clip, or the first clip of a video."""
    if metadata.task == "video_classification":
        is_clip = isinstance(source, np.ndarray)
        return [source if is_clip else next(read_clips(source, metadata)).views]
    return prepare_inputs(load_image(source), metadata)
