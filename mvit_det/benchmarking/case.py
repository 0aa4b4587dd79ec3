"""What is measured: a model, its input, and how it runs."""

from dataclasses import dataclass

import torch

from ..errors import ConfigError, DeviceError

SIZES = ("t", "s", "b", "l", "h", "pico")
# For these there is a Mask R-CNN among the configs.
DETECTOR_SIZES = ("t", "s", "b", "pico")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PASSES = ("forward", "train")
WHAT = (*PASSES, "memory")
# The candidate is mvit_det with the options of the case, the baseline what it is compared with.
SIDES = ("candidate", "baseline")
BASELINES = ("detectron2", "mvit_det")


@dataclass(frozen=True)
class Case:
    """One model on one kind of input, on both sides.

    Attributes:
        size: of the model, one of `SIZES`.
        image_size: height and width in pixels.
        batch: images that run at once.
        dtype: "fp32", or what autocast computes in.
        device: "cpu" or "cuda".
        compile: runs the backbones of both sides through `torch.compile`.
        detector: measures a whole Mask R-CNN instead of the backbone.
        checkpoint: stages whose blocks the candidate computes again in the backward pass, of
            "scale2", "scale3", …; ("all",) for each of them.
        mask_padding: whether the candidate keeps padding out of attention.
        baseline: "detectron2", or "mvit_det" for the candidate without `checkpoint` and
            `mask_padding`, which so show what they cost.
        threads: of the CPU; 0 leaves them to PyTorch.
    """

    size: str = "t"
    image_size: tuple[int, int] = (800, 1216)
    batch: int = 1
    dtype: str = "fp32"
    device: str = "cpu"
    compile: bool = False
    detector: bool = False
    checkpoint: tuple[str, ...] = ()
    mask_padding: bool = False
    baseline: str = "detectron2"
    threads: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be measured here.

        Raises:
            ConfigError: an attribute is none of its allowed values, or does not fit the others.
            DeviceError: CUDA is asked for and not available.
        """
        for name, value, allowed in (
            ("size", self.size, SIZES),
            ("dtype", self.dtype, tuple(DTYPES)),
            ("device", self.device, ("cpu", "cuda")),
            ("baseline", self.baseline, BASELINES),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not '{value}'")
        for name, number, least in (
            # Five levels of the pyramid need something to look at.
            ("image height", self.image_size[0], 32),
            ("image width", self.image_size[1], 32),
            ("batch", self.batch, 1),
            ("threads", self.threads, 0),
        ):
            if number < least:
                raise ConfigError(f"{name} must be at least {least}, not {number}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                "device 'cuda' was asked for, but PyTorch finds no CUDA device on this machine; "
                "use '--device cpu', or see 'python tools/check_install.py'"
            )
        if self.device == "cpu" and self.dtype == "fp16":
            raise ConfigError("dtype fp16 needs CUDA; on the CPU there are fp32 and bf16")
        if self.baseline == "mvit_det" and not (self.checkpoint or self.mask_padding):
            raise ConfigError(
                "mvit_det differs from itself only with '--checkpoint' or '--mask-padding'"
            )
        if self.detector and self.size not in DETECTOR_SIZES:
            raise ConfigError(
                f"there is no Mask R-CNN of size {self.size}; there are {', '.join(DETECTOR_SIZES)}"
            )

    @property
    def pixels(self) -> int:
        """Pixels of one image."""
        return self.image_size[0] * self.image_size[1]

    @property
    def same_features(self) -> bool:
        """Whether both sides compute the same: masked padding changes features by design."""
        return not self.mask_padding

    @property
    def model(self) -> str:
        """Name of the model."""
        size = "pico" if self.size == "pico" else self.size.upper()
        return f"{'Mask R-CNN' if self.detector else 'MViTv2'}-{size}"

    def describe(self) -> str:
        """The settings in a few words."""
        image = f"{self.image_size[0]}×{self.image_size[1]}"
        parts = [self.model, image, f"batch {self.batch}", self.dtype]
        if self.compile:
            parts.append("compiled")
        if self.checkpoint:
            parts.append(f"checkpointing {'+'.join(self.checkpoint)}")
        if self.mask_padding:
            parts.append("padding masked")
        return ", ".join(parts)
