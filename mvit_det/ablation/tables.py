"""The tables of MViTv2's paper on detection: their rows as config overrides, and their results.

The published box AP are those of MViTv2's section 5.3 (positions: table 6, residual and full Q
pooling: table 7, scales: table 9): Mask R-CNN with MViTv2-S and ViT-B on COCO val2017, pre-trained
on ImageNet-1K, after 36 epochs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes

from ..benchmarking.report import format_table
from ..errors import ConfigError
from ..model_zoo import configs_folder
from ..plotting import COLOURS, new_figure, save_figure, tidy

TABLES = ("attention", "position", "pooling", "scales")
NOTHING = "–"
HEADER = (
    "model", "variant", "box AP", "mask AP", "parameters (M)", "backbone (G multiply-adds)",
    "time per image (ms)", "peak memory, training (MiB)", "published box AP, COCO",
)  # fmt: skip


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# Configs of both backbones, with a pyramid and on a single scale, by dataset.
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
# The key of the backbone in the config of each model.
FIELDS = {"MViTv2": "model.backbone.bottom_up", "ViT": "model.backbone.net"}

# By table: model, name of the row, overrides of the backbone, published box AP.
ROWS: dict[str, tuple[tuple[str, str, str, float], ...]] = {
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
        model: it is a variant of, in a word.
        config: path of its config file.
        overrides: of the config, `key.of.field=value`.
        published: box AP on COCO in the paper, if any.
    """

    name: str
    model: str
    config: Path
    overrides: tuple[str, ...] = ()
    published: float | None = None


@dataclass(frozen=True)
class Table:
    """Variants to compare with each other."""

    name: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Result:
    """AP and cost of a variant.

    Attributes:
        metrics: of the evaluation after each training, one per seed: `{"bbox": {"AP": …}, …}` in
            percent.
        parameters: of the detector.
        multiply_adds: of the backbone, pyramid included, on one image.
        peak_memory: of the first training step, in bytes above the memory in use before it.
        iterations: of each training.
        seconds_per_image: inference of the detector, for each timed image.
    """

    metrics: tuple[dict[str, Any], ...]
    parameters: int
    multiply_adds: float
    peak_memory: int
    iterations: int
    seconds_per_image: tuple[float, ...] = ()

    def average_precision(self, task: str = "bbox") -> tuple[float, ...]:
        """AP of a task in percent, by seed; NaN where it was not evaluated."""
        return tuple(metrics.get(task, {}).get("AP", float("nan")) for metrics in self.metrics)

    @property
    def time_per_image(self) -> float:
        """Median time of an image, in seconds."""
        return median(self.seconds_per_image)


def paper_tables(names: Sequence[str], data: str = "shapes") -> list[Table]:
    """Returns tables of the paper.

    Args:
        names: of `TABLES`.
        data: "shapes", with models small enough to learn it in a minute, or "coco", with the
            models of the paper.

    Raises:
        ConfigError: a name is unknown.
    """
    for name in names:
        if name not in TABLES:
            raise ConfigError(f"there is no table '{name}'; there are {', '.join(TABLES)}")
    if data not in CONFIGS:
        raise ConfigError(f"there are tables on {' and '.join(CONFIGS)}, not on '{data}'")
    return [Table(name, tuple(_variant(data, *row) for row in ROWS[name])) for name in names]


def custom_table(rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table of your own variants.

    Args:
        rows: name, config file and overrides of each variant.

    Raises:
        ConfigError: a row has no config, or two rows have the same name.
    """
    for row in rows:
        if len(row) < 2:
            raise ConfigError(f"the variant '{' '.join(row)}' needs a name and a config file")
    names = [row[0] for row in rows]
    if len(set(names)) < len(names):
        raise ConfigError(f"the names of variants must differ, not be {', '.join(names)}")
    return Table(
        "custom", tuple(Variant(name, "", Path(path), tuple(rest)) for name, path, *rest in rows)
    )


def format_tables(tables: Sequence[Table], results: Mapping[Variant, Result]) -> str:
    """Formats each table in Markdown; AP of several seeds as mean and range."""
    sections = []
    for table in tables:
        columns = zip(HEADER, *(_cells(v, results[v]) for v in table.variants), strict=True)
        # Empty columns are dropped.
        filled = [column for column in columns if set(column[1:]) - {"", NOTHING}]
        header, *lines = zip(*filled, strict=True)
        sections.append(f"### {table.name.capitalize()}\n\n{format_table(header, lines)}")
    return "\n\n".join(sections)


def as_json(tables: Sequence[Table], results: Mapping[Variant, Result]) -> dict[str, Any]:
    """Returns all results by table, a dict for each row."""
    return {
        table.name: [_row_as_json(variant, results[variant]) for variant in table.variants]
        for table in tables
    }


def draw(tables: Sequence[Table], results: Mapping[Variant, Result], path: Path) -> None:
    """Draws box AP against time per image, a panel for each table.

    Args:
        tables, results: as `compare` takes and returns them.
        path: of the PNG to write.
    """
    figure = new_figure(6.4 * len(tables), 6)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        _draw_panel(axes, table, results)
    save_figure(figure, path, dpi=150)


def _variant(data: str, model: str, name: str, fields: str, published: float) -> Variant:
    overrides = tuple(f"{FIELDS[model]}.{field}" for field in fields.split())
    backbone = model.partition(",")[0]
    path = configs_folder() / CONFIGS[data][model]
    return Variant(name, backbone, path, overrides, published)


def _row_as_json(variant: Variant, result: Result) -> dict[str, Any]:
    return {
        "model": variant.model,
        "variant": variant.name,
        "config": str(variant.config),
        "overrides": list(variant.overrides),
        "iterations": result.iterations,
        "box_ap": list(result.average_precision("bbox")),
        "mask_ap": list(result.average_precision("segm")),
        "metrics": list(result.metrics),
        "parameters": result.parameters,
        "backbone_multiply_adds": result.multiply_adds,
        "seconds_per_image": list(result.seconds_per_image),
        "peak_memory_bytes": result.peak_memory,
        "published_box_ap_coco": variant.published,
    }


def _cells(variant: Variant, result: Result) -> list[str]:
    return [
        variant.model,
        variant.name,
        _format_ap(result.average_precision("bbox")),
        _format_ap(result.average_precision("segm")),
        f"{result.parameters / 1e6:.2f}",
        f"{result.multiply_adds / 1e9:.3g}",
        f"{result.time_per_image * 1e3:.3g}",
        f"{result.peak_memory / 2**20:.0f}",
        NOTHING if variant.published is None else f"{variant.published:.1f}",
    ]


def _format_ap(values: Sequence[float]) -> str:
    if any(math.isnan(value) for value in values):
        return NOTHING
    text = f"{mean(values):.1f}"
    if len(values) > 1:
        text += f" ({min(values):.1f}–{max(values):.1f})"
    return text


def _draw_panel(axes: Axes, table: Table, results: Mapping[Variant, Result]) -> None:
    colours = dict(zip(dict.fromkeys(v.model for v in table.variants), COLOURS, strict=False))
    for variant, marker in zip(table.variants, itertools.cycle(MARKERS), strict=False):
        values = results[variant].average_precision()
        middle = mean(values)
        axes.errorbar(
            1e3 * results[variant].time_per_image,
            middle,
            [[middle - min(values)], [max(values) - middle]],
            fmt=marker,
            markersize=8,
            color=colours[variant.model],
            label=f"{variant.model} {variant.name}".strip(),
            capsize=2,
        )
    axes.set_title(table.name)
    axes.set_xlabel("time per image (ms)")
    axes.set_ylabel("box AP")
    axes.margins(0.1)
    tidy(axes)
    # Names beside the points would overlap where several are close together.
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
