"""The comparisons of MViTv2's paper, repeated on any dataset: AP and cost of each choice."""

from .comparison import Settings, compare
from .tables import (
    TABLES,
    Result,
    Table,
    Variant,
    as_json,
    custom_table,
    draw,
    format_tables,
    paper_tables,
)

__all__ = [
    "TABLES",
    "Result",
    "Settings",
    "Table",
    "Variant",
    "as_json",
    "compare",
    "custom_table",
    "draw",
    "format_tables",
    "paper_tables",
]
