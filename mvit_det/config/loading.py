"""From a config file and a command line to a config that this machine can run."""

import builtins
import difflib
import logging
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import Backbone
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ..data.folders import check_writable
from ..data.urls import expand_home, is_url
from ..errors import ConfigError, DeviceError
from ..model_zoo import MODELS, config_path, configs_folder, list_configs
from .overrides import apply_overrides, rename_fields
from .schema import ENTRIES, Field, fields_of
from .validation import REQUIRED, find_issues, raise_issues

logger = logging.getLogger(__name__)


def find_config(config: str | Path, overrides: Sequence[str] = ()) -> tuple[DictConfig, str | None]:
    """The config of a file or of a published model.

    Args:
        config: path of a file, or name of a model in `model_zoo`.
        overrides: as for `load_config`.

    Returns:
        The config, and the URL of the weights of a published model.

    Raises:
        ConfigError: there is no such config, or it or an override cannot be used.
    """
    path = config_file(config)
    published = MODELS.get(str(config))
    return load_config(path, overrides), published.url if published else None


def config_file(config: str | Path) -> Path:
    """The file of a config.

    Args:
        config: path of a file, name of a published model ("mvitv2_t_in1k"), or name of a config of
            this package, with or without its folder: "shapes/mask_rcnn_mvitv2_pico",
            "configs/COCO/mask_rcnn_mvitv2_t.py", "retinanet_mvitv2_t".

    Raises:
        ConfigError: there is no such file, model or config, or a name without folder fits several.
    """
    if str(config) in MODELS:
        return config_path(str(config))
    path = Path(config)
    if path.is_file():
        return path
    name = Path(config).as_posix().removeprefix("configs/").removesuffix(".py")
    configs = list_configs()
    fitting = [each for each in configs if name in (each, each.rpartition("/")[2])]
    if name in fitting or len(fitting) == 1:
        return configs_folder() / f"{name if name in fitting else fitting[0]}.py"
    if fitting:
        raise ConfigError(f"'{config}' is the name of several configs: {', '.join(fitting)}")
    if path.is_dir():
        raise ConfigError(
            f"'{path}' is a directory; name a config file, such as the config.yaml in the output "
            "directory of a training"
        )
    short = [each.rpartition("/")[2] for each in configs]
    close = difflib.get_close_matches(name, [*MODELS, *configs, *short], 1)
    raise ConfigError(
        f"there is no config '{config}': it is neither a file nor a name; "
        + (f"did you mean '{close[0]}'? " if close else "")
        + "'mvit-det models --configs' lists the names"
    )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DictConfig:
    """Reads a LazyConfig file, applies overrides, and checks the result.

    Fields of `train` and `data` that the file does not have get their defaults, so that files of
    earlier releases can be used.

    Args:
        path: a `.py` or `.yaml` file.
        overrides: `key.of.field=value` in Hydra's grammar; `+key.of.field=value` adds a field.

    Raises:
        ConfigError: the file is missing or is no config, an override cannot be read or applied, or
            fields are unknown or have impossible values, see `find_issues`.
    """
    path = config_file(path)
    config = _read(path)
    rename_fields(config)
    for name, entry in ENTRIES.items():
        if name in config or name not in REQUIRED:
            _fill(config, name, asdict(entry()))
    added, issues = apply_overrides(config, overrides)
    issues += find_issues(config, added, f"'{path}'")
    raise_issues(issues + _unwrap_datasets(config))
    for name, entry in ENTRIES.items():
        for field, described in fields_of(entry).items():
            if isinstance(described, Field) and described.is_path:
                value = config[name][field]
                if value.startswith("~"):
                    config[name][field] = expand_home(value)
    if config.train.init_checkpoint in MODELS:
        config.train.init_checkpoint = MODELS[config.train.init_checkpoint].url
    return config


def build_model(config: DictConfig) -> nn.Module:
    """Builds the model of a config, with random weights.

    Raises:
        ConfigError: its fields contradict each other, or one has an impossible value.
    """
    try:
        model = instantiate(config.model)
    # Detectron2's classes check their arguments with assertions, if at all.
    except (
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"the model of the config cannot be built ({reason}); correct the fields of 'model'"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the entry 'model' of the config is no model but {model!r}")
    _check_features(model)
    return model


def _check_features(model: nn.Module) -> None:
    """Compares the feature maps that heads read with those that the backbone returns.

    Raises:
        ConfigError: a head reads none, or one that there is not.
    """
    if not isinstance(backbone := getattr(model, "backbone", None), Backbone):
        return
    levels = list(backbone.output_shape())
    for name in ("", "proposal_generator", "roi_heads", "sem_seg_head"):
        head = model.get_submodule(name) if hasattr(model, name) or not name else None
        # Heads of detectors also have `in_features`, which is `box_in_features`.
        for argument in ("box_in_features", "mask_in_features", "head_in_features", "in_features"):
            read = getattr(head, argument, None)
            if read is not None and (not read or isinstance(read, str) or {*read} - {*levels}):
                path = ".".join(filter(None, ("model", name, argument)))
                raise ConfigError(
                    f"{path} must be a list of some of the backbone's outputs "
                    f"({', '.join(levels)}), not {read!r}"
                )


def _read(path: Path) -> DictConfig:
    """Reads a config file, and says in one sentence what is wrong with it.

    Raises:
        ConfigError: with the line, where there is one.
    """
    _check_text(path)
    imports = builtins.__import__
    try:
        config = LazyConfig.load(str(path))
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        line = f"line {cause.lineno}: " if cause.lineno else ""
        raise ConfigError(
            f"cannot read the config file '{path}': {error} ({line}{cause.msg})"
        ) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(
            f"cannot read the config file '{path}': line {line}: {error.problem}"
        ) from error
    except (Exception, SystemExit) as error:  # a config is a program
        places = []
        for frame, number in traceback.walk_tb(error.__traceback__):
            # Configs are run without becoming modules.
            if frame.f_globals.get("__name__") not in sys.modules:
                places.append(f" in line {number} of '{frame.f_code.co_filename}'")
            # Detectron2 reads a config that another one imports.
            elif frame.f_code.co_name == "_validate_py_syntax":
                places.append(f" in '{frame.f_locals['filename']}'")
        where = places[-1] if places else ""
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ConfigError(
            f"cannot read the config file '{path}': {type(error).__name__}{where}: {reason}"
        ) from error
    finally:
        # Detectron2 leaves its own where a config fails.
        builtins.__import__ = imports
    entries = dict(config) if isinstance(config, DictConfig) and config else {}
    if not any(isinstance(entries.get(name), DictConfig) for name in REQUIRED):
        raise ConfigError(
            f"'{path}' holds no config: a config has the entries {', '.join(REQUIRED)}"
        )
    return config


def _check_text(path: Path) -> None:
    """Refuses files with characters that Python or YAML does not read.

    Raises:
        ConfigError: names the line of the first.
    """
    refused = "\0" if path.suffix == ".py" else yaml.reader.Reader.NON_PRINTABLE
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"cannot read the config file '{path}': line {line} is not UTF-8 ({error.reason}); "
            "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read the config file '{path}': {error.strerror}") from error
    if found := re.search(refused, text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(
            f"cannot read the config file '{path}': line {line} has the character {found[0]!r}; "
            "delete it"
        )


def _fill(config: DictConfig, name: str, default: Any) -> None:
    """Gives a field and all fields below it their defaults where they are missing, in place."""
    if name not in set(config):
        config[name] = default
    elif isinstance(default, dict) and isinstance(config[name], DictConfig):
        for inner, value in default.items():
            _fill(config[name], inner, value)


def _unwrap_datasets(config: DictConfig) -> list[str]:
    """Replaces lists of one dataset by its name, in place; returns what is wrong with others."""
    issues = []
    for split in ("train", "test"):
        path = f"dataloader.{split}.dataset.names"
        names = OmegaConf.select(config, path, throw_on_resolution_failure=False)
        if isinstance(names, ListConfig) and len(names) == 1:
            OmegaConf.update(config, path, names[0])
        elif isinstance(names, ListConfig) and (not names or split == "test"):
            wanted = "one dataset" if split == "test" else "at least one dataset"
            issues.append(f"{path} must be {wanted}, not {list(names)}")
    return issues


def prepare_output_dir(config: DictConfig) -> None:
    """Creates the directory `train.output_dir` and checks that it is writable.

    Raises:
        ConfigError: it is not.
    """
    folder = config.train.output_dir
    try:
        if not folder.strip():
            raise OSError("it has no name")
        if is_url(folder):
            raise OSError("it is a URL, and outputs are written to files")
        check_writable(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileExistsError):
            reason = "a file has this name"
        raise ConfigError(
            f"cannot write to the output directory '{folder}' ({reason}); choose another one with "
            "train.output_dir=…"
        ) from error


def choose_device(requested: str | torch.device = "") -> str:
    """The device to run on.

    Args:
        requested: 'cpu', 'cuda' or one of several CUDA devices, 'cuda:1'; '' is CUDA if it is
            available, else the CPU.

    Raises:
        DeviceError: there is no such device.
    """
    if not str(requested):
        if not torch.cuda.is_available():
            logger.warning("No CUDA device found: running on the CPU ('--device cpu' to say so)")
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise DeviceError(f"there is no device '{requested}'; use 'cpu' or 'cuda'") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device '{requested}' is not supported; use 'cpu' or 'cuda'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device '{requested}' was requested, but PyTorch finds {torch.cuda.device_count()} "
            "CUDA devices here; use '--device cpu', or see 'python tools/check_install.py'"
        )
    return str(requested)


def resolve_device(config: DictConfig, requested: str | None = None) -> None:
    """Decides on the device and on mixed precision, in place.

    Args:
        config: `train.device` and `train.amp` are read and filled in: `train.amp.dtype` becomes
            'bf16' or 'fp16', and `train.amp.enabled` is True only where mixed precision pays off.
        requested: as for `choose_device`; None leaves it to `train.device`.

    Raises:
        DeviceError: there is no such device.
        ConfigError: `train.amp.dtype` needs another device.
    """
    device = choose_device(requested or config.train.device)
    config.train.device = device

    amp = config.train.amp
    if device == "cpu":
        if amp.dtype == "fp16":
            raise ConfigError("train.amp.dtype=fp16 needs CUDA; on the CPU there is bf16")
        # Many CPUs have no bf16 arithmetic and are slower with it: only on request.
        amp.enabled = bool(amp.enabled and amp.dtype == "bf16")
        amp.dtype = "bf16"
    elif amp.dtype == "auto":
        amp.dtype = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
