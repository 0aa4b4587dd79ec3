"""Training and evaluation on a dataset in any format, found by looking at its folder."""

import hashlib
import logging
from pathlib import Path

from omegaconf import DictConfig

from ..checkpoint.state import from_main_process
from ..data.formats import read_dataset, write_coco
from ..data.formats.dataset import SPLIT_NAMES
from ..errors import DatasetError
from .custom_dataset import set_custom_dataset

logger = logging.getLogger(__name__)

# Folder in the output directory with a folder of converted annotations for each dataset.
CONVERTED = "datasets"


def set_dataset(
    config: DictConfig, path: str | Path, *, val_fraction: float = 0.1, seed: int = 0
) -> None:
    """Writes the splits of a dataset into `config.data`, in place.

    Annotations that are no JSON files in COCO's format are converted to them, in the output
    directory; images stay where they are. Without a validation split, some images are set aside
    for it. Every rank calls it; the first one reads the dataset.

    Args:
        config: of a detector; of a classifier, whose dataset is a folder with `train` and `val`.
        path: as for `read_dataset`.
        val_fraction, seed: as for `Dataset.with_validation`.

    Raises:
        DatasetError: the dataset cannot be used.
        OutputError: the converted annotations cannot be written.
    """
    if "classifier" in config.model:
        set_custom_dataset(config, **_class_folders(Path(path)))
        return
    paths = from_main_process(lambda: _convert(config, path, val_fraction, seed))
    set_custom_dataset(config, **paths)


def _convert(
    config: DictConfig, path: str | Path, val_fraction: float, seed: int
) -> dict[str, str | Path]:
    """The four paths of `config.data`."""
    dataset = read_dataset(path).with_validation(val_fraction, seed)
    for name in ("train", "val"):
        if name not in dataset.splits:
            raise DatasetError(
                f"the dataset '{path}' has no images for '{name}', only for "
                f"{', '.join(dataset.splits)}"
            )
    needed = {name: dataset.splits[name] for name in ("train", "val")}
    logger.info(
        "The dataset '%s' is in the format of %s: %s",
        path,
        dataset.kind,
        ", ".join(f"{len(each.content['images'])} images in {key}" for key, each in needed.items()),
    )
    for note in dataset.notes:
        logger.info("%s", note)
    files = {name: split.file for name, split in needed.items()}
    if not all(files.values()):
        # An evaluation on another dataset keeps the annotations of the training.
        key = f"{Path(path).absolute()}\n{val_fraction}\n{seed}"
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:8]
        folder = Path(config.train.output_dir, CONVERTED, f"{Path(path).stem}_{digest}")
        files = {**files, **write_coco(dataset, folder)}
    paths: dict[str, str | Path] = {}
    for name, split in needed.items():
        paths[f"{name}_json"], paths[f"{name}_images"] = files[name] or "", split.folder
    return paths


def _class_folders(path: Path) -> dict[str, Path]:
    """Folders of images per class, for training and for validation."""
    folders = {}
    for split in ("train", "val"):
        candidates = [path / name for name in SPLIT_NAMES[split]]
        found = next((each for each in candidates if each.is_dir()), None)
        if found is None:
            raise DatasetError(
                f"a classifier's dataset has a folder of images per class, in '{candidates[0]}' "
                f"for '{split}'; there is none"
            )
        folders[f"{split}_folder"] = found
    return folders
