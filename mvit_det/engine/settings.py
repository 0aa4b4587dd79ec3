"""From a config file and a command line to settings that this machine can run."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from hydra.errors import OverrideParseException
from omegaconf import DictConfig

from ..errors import ConfigError, DeviceError

logger = logging.getLogger(__name__)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads a LazyConfig file and applies changes to it.

    Args:
        path: a `.py` or `.yaml` file.
        overrides: changes as `key.of.field=value`, in Hydra's grammar.

    Raises:
        ConfigError: the file is missing or not a config, or a change cannot be read or applied.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no config file '{path}'; the configs lie under 'configs/'")
    try:
        config = LazyConfig.load(str(path))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"cannot read the config file '{path}': {error}") from error
    for override in overrides:
        if "=" not in override:
            raise ConfigError(
                f"cannot read the option '{override}': changes to the config are written as "
                "key.of.field=value"
            )
    try:
        return LazyConfig.apply_overrides(config, list(overrides))
    except (OverrideParseException, KeyError) as error:
        reason = str(error.args[0]).splitlines()[0]
        raise ConfigError(f"cannot apply {' '.join(overrides)}: {reason}") from error


def prepare_output_dir(config: DictConfig) -> None:
    """Makes the folder `train.output_dir`, and checks that files can be written there.

    Raises:
        ConfigError: they cannot.
    """
    folder = config.train.output_dir
    try:
        if not folder:
            raise OSError("it has no name")
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"1")
            file.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError):
            reason = "a file has this name"
        raise ConfigError(
            f"cannot write to the output folder '{folder}' ({reason}); choose another one with "
            "train.output_dir=…"
        ) from error


def choose_device(requested: str = "") -> str:
    """The device to run on.

    Args:
        requested: 'cpu', 'cuda' or one of several CUDA devices, 'cuda:1'; '' takes CUDA where
            there is any, and the CPU elsewhere.

    Raises:
        DeviceError: CUDA is asked for and not available.
    """
    has_cuda = torch.cuda.is_available()
    if not requested:
        if not has_cuda:
            logger.warning("No CUDA device found: running on the CPU ('--device cpu' to say so)")
        return "cuda" if has_cuda else "cpu"
    if requested.startswith("cuda") and not has_cuda:
        raise DeviceError(
            f"device '{requested}' was asked for, but PyTorch finds no CUDA device on this "
            "machine; use '--device cpu', or see 'python tools/check_install.py'"
        )
    return requested


def resolve_device(config: DictConfig, requested: str | None = None) -> None:
    """Settles device and mixed precision in `config.train`, in place.

    Args:
        config: `train.device` and `train.amp` are read and filled in. Afterwards
            `train.amp.dtype` is 'bf16' or 'fp16' and `train.amp.enabled` is True only where
            mixed precision pays.
        requested: 'cpu' or 'cuda'; None leaves it to the config, and to the machine where that
            says nothing.

    Raises:
        DeviceError: CUDA is asked for and not available.
        ConfigError: `train.amp.dtype` is none of 'auto', 'bf16' and 'fp16'.
    """
    device = choose_device(requested or config.train.device)
    config.train.device = device

    amp = config.train.amp
    if amp.dtype not in ("auto", "bf16", "fp16"):
        raise ConfigError(f"train.amp.dtype must be 'auto', 'bf16' or 'fp16', not '{amp.dtype}'")
    if device == "cpu":
        if amp.dtype == "fp16":
            raise ConfigError("train.amp.dtype=fp16 needs CUDA; on the CPU there is bf16")
        # Many processors have no arithmetic in bf16 and lose by it: only where it is asked for.
        amp.enabled = bool(amp.enabled and amp.dtype == "bf16")
        amp.dtype = "bf16"
    elif amp.dtype == "auto":
        amp.dtype = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
