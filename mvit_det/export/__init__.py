"""Exporting models to files that run without this package."""

from .comparison import Differences, compare
from .exporting import FORMATS, Exportable, export, prepare_detector

__all__ = ["FORMATS", "Differences", "Exportable", "compare", "export", "prepare_detector"]
