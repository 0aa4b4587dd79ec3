"""From a config file and a command line to settings that this machine can run."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError, DeviceError
from .schema import FIELDS
from .validation import find_issues, find_unknown, raise_issues

logger = logging.getLogger(__name__)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads a LazyConfig file, applies changes to it, and checks what comes out.

    Args:
        path: a `.py` or `.yaml` file.
        overrides: changes as `key.of.field=value`, in Hydra's grammar, of fields that there are;
            `+key.of.field=value` adds one.

    Raises:
        ConfigError: the file is missing or not a config, a change cannot be read or applied, or
            fields are unknown or have values that they cannot have, see `find_issues`.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no config file '{path}'; the configs lie under 'configs/'")
    try:
        config = LazyConfig.load(str(path))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"cannot read the config file '{path}': {error}") from error
    added, issues = _apply_overrides(config, overrides)
    raise_issues(issues + find_issues(config, added))
    return config


def _apply_overrides(config: DictConfig, overrides: Sequence[str]) -> tuple[set[str], list[str]]:
    """Applies changes to a config, in place.

    Returns:
        Paths of fields that were added on purpose, and what is wrong with changes that were left
        out.

    Raises:
        ConfigError: a change cannot be read or applied.
    """
    added: set[str] = set()
    issues: list[str] = []
    for text in overrides:
        if "=" not in text:
            raise ConfigError(
                f"cannot read the option '{text}': changes to the config are written as "
                "key.of.field=value"
            )
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
            key, value = override.key_or_group, override.value()
            if override.is_delete():
                raise ConfigError(f"cannot apply {text}: fields cannot be removed")
            adds = override.is_add() or override.is_force_add()
            problem = find_unknown(config, key)
            if problem and adds:
                added.add(key)
            elif problem or (problem := _wrong_kind(config, key, value)):
                issues.append(problem)
                continue
            LazyConfig.apply_overrides(config, [text])
        except (OverrideParseException, KeyError) as error:
            reason = str(error.args[0]).splitlines()[0]
            raise ConfigError(f"cannot apply {text}: {reason}") from error
    return added, issues


def _wrong_kind(config: DictConfig, key: str, value: Any) -> str | None:
    """What is wrong with a text in the place of a number, or of true or false."""
    old = OmegaConf.select(config, key)
    # Those with a description say more about their values.
    if key in FIELDS or not isinstance(value, str) or value.startswith("${"):
        return None
    if isinstance(old, bool):
        return f"{key} must be true or false, not '{value}'"
    return f"{key} must be a number, not '{value}'" if isinstance(old, (int, float)) else None


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
