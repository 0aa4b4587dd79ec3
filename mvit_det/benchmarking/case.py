"""One case of the benchmark: a model, its input, how it runs, and what to measure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ConfigError, DeviceError

SIZES = ("t", "s", "b", "l", "h", "pico")
# Sizes of models for clips.
VIDEO_SIZES = ("s", "b", "l", "pico")
# Sizes with a Mask R-CNN among the configs.
DETECTOR_SIZES = ("t", "s", "b", "pico")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COARSEST_STRIDE = 32  # pixels per token of the last stage
PASSES = ("forward", "train")
WHAT = (*PASSES, "memory")
# The candidate is mvit_det with the options of the case; the baseline is what it is compared with.
SIDES = ("candidate", "baseline")
TASKS = ("detection", "classification", "video")
# The baselines of each task; the first is the default.
BASELINES = {
    "detection": ("detectron2", "mvit_det"),
    "classification": ("timm", "mvit_det"),
    "video": ("torchvision", "mvit_det"),
}
PRESETS = ("quick", "full")
# Sides of the square images of a sweep, in pixels.
SWEEP_SIDES = (256, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Case:
    """One model on one kind of input, on both sides.

    Attributes:
        size: of the model, one of `SIZES`.
        task: one of `TASKS`: a backbone or a detector, or a classifier of images or clips, of 1000
            classes.
        image_size: height and width in pixels.
        frames: of each clip.
        batch: images or clips per batch.
        dtype: "fp32", or the dtype of autocast.
        device: "cpu" or "cuda".
        compile: whether `torch.compile` runs the backbones of both sides.
        detector: whether to measure a whole Mask R-CNN instead of the backbone.
        checkpoint: stages whose blocks the candidate checkpoints, of "scale2", "scale3", …;
            ("all",) for each of them.
        mask_padding: whether the candidate keeps padding out of attention.
        baseline: "detectron2" or, for classifiers, "timm", of clips "torchvision"; or "mvit_det"
            for the candidate without `checkpoint` and `mask_padding`, which shows their cost.
        threads: of the CPU; 0 keeps PyTorch's number.
        what: of `WHAT`. "memory" is the peak memory of the passes beside it, or of the training
            step if there is none.
        repeats: timed runs of each pass.
        warmup: untimed runs before them.
    """

    size: str = "t"
    task: str = "detection"
    image_size: tuple[int, int] = (800, 1216)
    frames: int = 16
    batch: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    compile: bool = False
    detector: bool = False
    checkpoint: tuple[str, ...] = ()
    mask_padding: bool = False
    baseline: str = "detectron2"
    threads: int = 0
    what: tuple[str, ...] = WHAT
    repeats: int = 5
    warmup: int = 1

    def __post_init__(self) -> None:
        """Checks that the case can be measured on this machine.

        Raises:
            ConfigError: an attribute is none of its allowed values, or does not fit the others.
            DeviceError: the device is CUDA and there is none.
        """
        for name, value, allowed in (
            ("size", self.size, SIZES),
            ("task", self.task, TASKS),
            ("dtype", self.dtype, tuple(DTYPES)),
            ("device", self.device, ("cpu", "cuda")),
            ("baseline", self.baseline, BASELINES.get(self.task, ())),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not '{value}'")
        if self.task != "detection":
            self._check_classification()
        for name, number, least in (
            # The smallest image that reaches all five levels of the pyramid.
            ("image height", self.image_size[0], 32),
            ("image width", self.image_size[1], 32),
            ("frames", self.frames, 2),
            ("batch", self.batch, 1),
            ("threads", self.threads, 0),
            ("repeats", self.repeats, 1),
        ):
            if number < least:
                raise ConfigError(f"{name} must be at least {least}, not {number}")
        check_device(self.device)
        if self.device == "cpu" and self.dtype == "fp16":
            raise ConfigError("dtype fp16 needs CUDA; the CPU has fp32 and bf16")
        if self.baseline == "mvit_det" and not (self.checkpoint or self.mask_padding):
            raise ConfigError(
                "mvit_det differs from itself only with '--checkpoint' or '--mask-padding'"
            )
        if self.detector and self.size not in DETECTOR_SIZES:
            raise ConfigError(
                f"there is no Mask R-CNN of size {self.size}; there are {', '.join(DETECTOR_SIZES)}"
            )

    def _check_classification(self) -> None:
        height, width = self.image_size
        # The baselines' tables of positions fit one size of square images.
        if height != width or height % COARSEST_STRIDE:
            raise ConfigError(
                f"images of classifiers must be square, with sides of a multiple of "
                f"{COARSEST_STRIDE} pixels, not {height} by {width}"
            )
        if self.detector or self.mask_padding:
            raise ConfigError(f"'--detector' and '--mask-padding' do not go with {self.task}")
        if self.task == "video" and self.size not in VIDEO_SIZES:
            raise ConfigError(
                f"there is no video model of size {self.size}; there are {', '.join(VIDEO_SIZES)}"
            )

    @property
    def passes(self) -> list[str]:
        """The passes to time."""
        return [name for name in PASSES if name in self.what]

    @property
    def pixels(self) -> int:
        """Pixels of one image or clip."""
        return math.prod(self.input_size)

    @property
    def input_size(self) -> tuple[int, ...]:
        """Height and width, of clips after the number of frames."""
        return (self.frames, *self.image_size) if self.task == "video" else self.image_size

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of a batch."""
        return (self.batch, 3, *self.input_size)

    @property
    def model(self) -> str:
        """Name of the model."""
        size = "pico" if self.size == "pico" else self.size.upper()
        suffix = {"classification": " classifier", "video": " video model"}.get(self.task, "")
        return f"{'Mask R-CNN' if self.detector else 'MViTv2'}-{size}{suffix}"

    def describe(self) -> str:
        """The settings in a few words."""
        words = [self.model, "×".join(map(str, self.input_size)), f"batch {self.batch}", self.dtype]
        if self.compile:
            words.append("compiled")
        if self.checkpoint:
            words.append(f"checkpointing {'+'.join(self.checkpoint)}")
        if self.mask_padding:
            words.append("padding masked")
        return ", ".join(words)


def check_device(device: str) -> None:
    """Raises a `DeviceError` if the device is CUDA and PyTorch finds none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "device 'cuda' was asked for, but PyTorch finds no CUDA device on this machine; "
            "use '--device cpu', or see 'python tools/check_install.py'"
        )


def preset(name: str, case: Case) -> list[Case]:
    """Sets of cases that answer: is it faster, is it smaller, and does that hold at any size?

    Args:
        name: "quick" takes minutes, on two cores or a GPU. "full" repeats it three times as often
            and adds inference of the detector, masked padding and checkpointing.
        case: model size, device, compilation and threads; the preset sets everything else.
    """

    def measure(what: Sequence[str], repeats: int, **settings: Any) -> Case:
        times = 1 if name == "quick" else 3
        return replace(case, what=tuple(what), repeats=repeats * times, **settings)

    if case.device == "cuda":
        training: dict[str, Any] = dict(image_size=(1024, 1024), batch=8, dtype="bf16")
        repeats = 10
        cases = [
            measure(["forward"], 20, image_size=(512, 512), dtype="bf16"),
            measure(["forward"], 10, image_size=(2048, 2048), dtype="bf16"),
            measure(["forward", "train", "memory"], repeats, **training),
        ]
    else:
        training = dict(image_size=(640, 800))
        repeats = 3
        cases = [
            measure(["forward"], 7, image_size=(800, 1216)),
            measure(["forward"], 7, image_size=(800, 1216), dtype="bf16"),
            measure(["forward"], 7, image_size=(512, 512)),
            measure(["forward"], 3, image_size=(2048, 2048)),
            measure(["train", "memory"], repeats, **training),
        ]
    if case.size in DETECTOR_SIZES:
        passes = ["train"] if name == "quick" else ["forward", "train"]
        cases.append(measure(passes, repeats, detector=True, **training))
    if name == "full":
        training["baseline"] = "mvit_det"
        cases.append(measure(["forward", "train"], repeats, mask_padding=True, **training))
        cases += [
            measure(["train", "memory"], repeats, checkpoint=stages, **training)
            for stages in (("scale2",), ("scale2", "scale3"), ("all",))
        ]
    return cases
