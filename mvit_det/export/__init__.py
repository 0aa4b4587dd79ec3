"""Exporting models to files that run without this package."""

from .comparison import ClassDifferences, Differences, compare
from .exporting import FORMATS, export
from .preparation import PARTS, Exportable, prepare

__all__ = [
    "FORMATS",
    "PARTS",
    "ClassDifferences",
    "Differences",
    "Exportable",
    "compare",
    "export",
    "prepare",
]
