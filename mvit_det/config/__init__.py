"""Configuration: loading, overrides, checks, schedule fitting and custom datasets."""

from .custom_dataset import set_custom_dataset, use_custom_dataset
from .loading import (
    build_model,
    choose_device,
    config_file,
    find_config,
    load_config,
    prepare_output_dir,
    resolve_device,
)
from .overrides import rename_flags
from .schedule import check_schedule, fit_schedule

__all__ = [
    "build_model",
    "check_schedule",
    "choose_device",
    "config_file",
    "find_config",
    "fit_schedule",
    "load_config",
    "prepare_output_dir",
    "rename_flags",
    "resolve_device",
    "set_custom_dataset",
    "use_custom_dataset",
]
