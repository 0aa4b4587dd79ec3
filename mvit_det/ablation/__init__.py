"""The comparisons of MViTv2's paper, repeated on any data: what each choice gives and costs."""

from .report import as_json, draw, format_tables
from .running import Result, Settings, compare
from .tables import TABLES, Table, Variant, own_table, paper_tables

__all__ = [
    "TABLES",
    "Result",
    "Settings",
    "Table",
    "Variant",
    "as_json",
    "compare",
    "draw",
    "format_tables",
    "own_table",
    "paper_tables",
]
