"""What is compared: the rows of MViTv2's tables on detection, as configs with changed fields.

The published box AP are those of MViTv2's section 5.3 (positions: table 6, residual and full Q
pooling: table 7, scales: table 9): Mask R-CNN with MViTv2-S and ViT-B on COCO val2017, pre-trained
on ImageNet-1K, after 36 epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..model_zoo import configs_folder

TABLES = ("attention", "position", "pooling", "scales")
# Configs of both backbones, with a pyramid and on a single scale, by what they are trained on.
CONFIGS = {
    "shapes": {
        "MViTv2": "shapes/ablation_mvitv2.py",
        "ViT": "shapes/ablation_vit.py",
        "MViTv2, single scale": "shapes/ablation_mvitv2_single_scale.py",
        "ViT, single scale": "shapes/ablation_vit_single_scale.py",
    },
    "coco": {
        "MViTv2": "COCO/mask_rcnn_mvitv2_s.py",
        "ViT": "COCO/mask_rcnn_vit_b.py",
        "MViTv2, single scale": "COCO/mask_rcnn_mvitv2_s_single_scale.py",
        "ViT, single scale": "COCO/mask_rcnn_vit_b_single_scale.py",
    },
}
# Where the fields of the backbone lie.
FIELDS = {"MViTv2": "model.backbone.bottom_up", "ViT": "model.backbone.net"}

# By table: backbone, name of the row, changed fields of the backbone, published box AP.
_ROWS: dict[str, tuple[tuple[str, str, str, float], ...]] = {
    "attention": (
        ("ViT", "full", "attention=global key_stride=1", 46.6),
        ("ViT", "window", "attention=window key_stride=1", 43.4),
        ("ViT", "shifted window", "attention=shifted_window key_stride=1", 45.1),
        ("ViT", "Hwin", "attention=hwin key_stride=1", 46.1),
        ("ViT", "pooling", "attention=global key_stride=2", 47.2),
        ("ViT", "pooling + Hwin", "attention=hwin key_stride=2", 46.9),
        ("MViTv2", "pooling", "attention=global key_stride=4", 50.8),
        ("MViTv2", "pooling (stride 8)", "attention=global key_stride=8", 50.0),
        ("MViTv2", "pooling + shifted window", "attention=shifted_window key_stride=4", 48.9),
        ("MViTv2", "pooling + Hwin", "attention=hwin key_stride=4", 49.9),
    ),
    "position": (
        ("MViTv2", "none", "position=none", 49.2),
        ("MViTv2", "absolute", "position=absolute", 49.3),
        ("MViTv2", "joint relative", "position=joint", 49.9),
        ("MViTv2", "decomposed relative", "position=decomposed", 49.9),
        ("MViTv2", "absolute + decomposed", "position=absolute+decomposed", 49.8),
    ),
    "pooling": (
        ("MViTv2", "neither", "residual_pooling=false full_query_pooling=false", 48.5),
        ("MViTv2", "residual", "residual_pooling=true full_query_pooling=false", 49.3),
        ("MViTv2", "full Q + residual", "residual_pooling=true full_query_pooling=true", 49.9),
        ("MViTv2", "full Q", "residual_pooling=false full_query_pooling=true", 48.5),
    ),
    "scales": (
        ("ViT, single scale", "single scale", "", 45.1),
        ("ViT", "FPN", "", 46.6),
        ("MViTv2, single scale", "single scale", "", 47.0),
        ("MViTv2", "FPN", "", 49.9),
    ),
}


@dataclass(frozen=True)
class Variant:
    """A row of a table.

    Attributes:
        name: of the row.
        model: what it is a variant of, in a word.
        config: path of its config file.
        overrides: changes to it, `key.of.field=value`.
        published: box AP on COCO in the paper; None where there is none.
    """

    name: str
    model: str
    config: Path
    overrides: tuple[str, ...] = ()
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """Variants to be compared with each other."""

    name: str
    variants: tuple[Variant, ...]


def paper_tables(names: Sequence[str], data: str = "shapes") -> list[Table]:
    """Tables of the paper.

    Args:
        names: of `TABLES`.
        data: "shapes", with models small enough to learn them in a minute, or "coco", with those
            of the paper.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in names:
        if name not in TABLES:
            raise ConfigError(f"there is no table '{name}'; there are {', '.join(TABLES)}")
    if data not in CONFIGS:
        raise ConfigError(f"there are tables on {' and '.join(CONFIGS)}, not on '{data}'")
    return [Table(name, tuple(_variant(data, *row) for row in _ROWS[name])) for name in names]


def _variant(data: str, model: str, name: str, fields: str, published: float) -> Variant:
    overrides = tuple(f"{FIELDS[model]}.{field}" for field in fields.split())
    backbone = model.partition(",")[0]
    path = configs_folder() / CONFIGS[data][model]
    return Variant(name, backbone, path, overrides, published)


def own_table(rows: Sequence[Sequence[str]]) -> Table:
    """A table of one's own.

    Args:
        rows: of each variant its name, its config file, and changes to that.

    Raises:
        ConfigError: a row has no config, or two rows have the same name.
    """
    for row in rows:
        if len(row) < 2:
            raise ConfigError(f"the variant '{' '.join(row)}' needs a name and a config file")
    names = [row[0] for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"variants must have names of their own, not {', '.join(names)}")
    return Table(
        "own", tuple(Variant(name, "", Path(path), tuple(rest)) for name, path, *rest in rows)
    )
