"""Results as tables in Markdown, as JSON to keep, and as an image."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

from ..benchmarking.report import provenance
from .running import Result, Settings
from .tables import Table, Variant

# Distinct to colour-blind eyes, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
NOTHING = "–"
HEADER = (
    "model", "variant", "box AP", "mask AP", "parameters (M)", "backbone (G multiply-adds)",
    "time per image (ms)", "peak memory, training (MiB)", "published box AP, COCO",
)  # fmt: skip


def format_tables(tables: Sequence[Table], results: Mapping[Variant, Result]) -> str:
    """One table in Markdown for each; AP of several seeds as their mean and their range."""
    texts = []
    for table in tables:
        columns = zip(*(_cells(v, results[v]) for v in table.variants), strict=True)
        # What no variant has needs no column.
        filled = {
            name: cells
            for name, cells in zip(HEADER, columns, strict=True)
            if set(cells) - {"", NOTHING}
        }
        text = tabulate(filled, headers="keys", tablefmt="github", disable_numparse=True)
        texts.append(f"### {table.name.capitalize()}\n\n{text}")
    return "\n\n".join(texts)


def _cells(variant: Variant, result: Result) -> list[str]:
    return [
        variant.model,
        variant.name,
        _format_ap(result.average_precision("bbox")),
        _format_ap(result.average_precision("segm")),
        f"{result.parameters / 1e6:.2f}",
        f"{result.flops / 1e9:.3g}",
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


def as_json(
    tables: Sequence[Table],
    results: Mapping[Variant, Result],
    settings: Settings,
    command: Sequence[str],
) -> dict[str, Any]:
    """All figures, and the settings, machine and versions that gave them."""
    return {
        **provenance(command),
        "seeds": list(settings.seeds),
        "overrides": list(settings.overrides),
        "tables": {
            table.name: [_row(variant, results[variant]) for variant in table.variants]
            for table in tables
        },
    }


def _row(variant: Variant, result: Result) -> dict[str, Any]:
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
        "backbone_multiply_adds": result.flops,
        "seconds_per_image": list(result.seconds_per_image),
        "peak_memory_bytes": result.peak_memory,
        "published_box_ap_coco": variant.published,
    }


def draw(tables: Sequence[Table], results: Mapping[Variant, Result], path: Path) -> None:
    """Draws box AP against time per image, a panel for each table.

    Args:
        tables, results: as `compare` takes and returns them.
        path: of the PNG to write.
    """
    figure = Figure(figsize=(6.4 * len(tables), 6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        _draw_panel(axes, table, results)
    figure.savefig(path, dpi=150)


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
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the points there is no room for names where several are close together.
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
