"""Checks that a dataset is there before anything expensive starts."""

from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..errors import DatasetError
from .shapes import GENERATED


def check_datasets(*names: str) -> None:
    """Checks that datasets are registered and their files exist.

    Args:
        names: registered names. Those of `shapes` need no files, they are generated on first use.

    Raises:
        DatasetError: a name is unknown, or its annotations or folder of images is missing.
    """
    for name in names:
        if name in GENERATED:
            continue
        if name not in DatasetCatalog:
            known = ", ".join(sorted(DatasetCatalog))
            raise DatasetError(f"dataset '{name}' is not registered; there are: {known}")
        metadata = MetadataCatalog.get(name)
        for path in filter(None, (metadata.get("json_file"), metadata.get("image_root"))):
            if not Path(path).exists():
                raise DatasetError(
                    f"dataset '{name}' is not here: there is no '{Path(path).absolute()}'; set "
                    "the environment variable DETECTRON2_DATASETS to the folder that holds "
                    "'coco/annotations' and 'coco/train2017', or try "
                    "'configs/shapes/mask_rcnn_mvitv2_pico.py', which generates its data"
                )
