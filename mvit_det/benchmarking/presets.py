"""Sets of measurements that answer: is it faster, is it smaller, and does that hold at any size?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from .case import DETECTOR_SIZES, Case

PRESETS = ("quick", "full")


@dataclass(frozen=True)
class Measurement:
    """A case, what to measure on it, and how often."""

    case: Case
    what: Sequence[str]
    repeats: int


def preset(
    name: str, *, size: str = "t", device: str = "cpu", compile: bool = False, threads: int = 0
) -> list[Measurement]:
    """The measurements of a preset.

    Args:
        name: "quick" is meant to take minutes, on two cores or a GPU. "full" repeats that
            more often and adds inference of the detector, masked padding and checkpointing.
        size, device, compile, threads: as in `Case`.
    """
    make = partial(Case, size=size, device=device, compile=compile, threads=threads)
    rows = _on_cuda(make) if device == "cuda" else _on_cpu(make)
    training, repeats = rows[-1].case, rows[-1].repeats
    if size in DETECTOR_SIZES:
        passes = ["train"] if name == "quick" else ["forward", "train"]
        rows.append(Measurement(replace(training, detector=True), passes, repeats))
    if name == "quick":
        return rows
    rows = [Measurement(row.case, row.what, 3 * row.repeats) for row in rows]
    against_itself = partial(
        make,
        image_size=training.image_size,
        batch=training.batch,
        dtype=training.dtype,
        baseline="mvit_det",
    )
    rows.append(Measurement(against_itself(mask_padding=True), ["forward", "train"], 3 * repeats))
    for stages in (("scale2",), ("scale2", "scale3"), ("all",)):
        case = against_itself(checkpoint=stages)
        rows.append(Measurement(case, ["train", "memory"], 3 * repeats))
    return rows


def _on_cpu(make: partial[Case]) -> list[Measurement]:
    """The training step last."""
    return [
        Measurement(make(image_size=(800, 1216)), ["forward"], 7),
        Measurement(make(image_size=(800, 1216), dtype="bf16"), ["forward"], 7),
        Measurement(make(image_size=(512, 512)), ["forward"], 7),
        Measurement(make(image_size=(2048, 2048)), ["forward"], 3),
        Measurement(make(image_size=(640, 800)), ["train", "memory"], 3),
    ]


def _on_cuda(make: partial[Case]) -> list[Measurement]:
    """The training step last."""
    make = partial(make, dtype="bf16")
    return [
        Measurement(make(image_size=(512, 512)), ["forward"], 20),
        Measurement(make(image_size=(2048, 2048)), ["forward"], 10),
        Measurement(make(image_size=(1024, 1024), batch=8), ["forward", "train", "memory"], 10),
    ]
