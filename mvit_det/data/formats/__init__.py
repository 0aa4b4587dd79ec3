"""Datasets in other formats than COCO's, converted to it: YOLO, Pascal VOC, LabelMe.

These readers are our own because the conversion must be exact. supervision 0.31 rounds polygons to
integer pixels and rasterises them, ignores VOC's `difficult`, and requires PyAV and SciPy; bad
files raise without their line. The readers here keep coordinates as they are written, need the
standard library and PyYAML, and name file and line.
"""

from .dataset import Dataset, Split
from .reading import read_dataset, write_coco

__all__ = ["Dataset", "Split", "read_dataset", "write_coco"]
