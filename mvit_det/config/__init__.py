"""Configuration: loading, overrides, checks, schedule fitting and custom datasets."""

from .custom_dataset import set_custom_dataset, use_custom_dataset
from .loading import choose_device, load_config, prepare_output_dir, resolve_device
from .schedule import fit_schedule

__all__ = [
    "choose_device",
    "fit_schedule",
    "load_config",
    "prepare_output_dir",
    "resolve_device",
    "set_custom_dataset",
    "use_custom_dataset",
]
