#!/usr/bin/env python
"""Installs Detectron2: `mvit-det install-detectron2`, before mvit_det is installed."""

import runpy
from pathlib import Path

MODULE = Path(__file__).resolve().parents[1] / "mvit_det" / "cli" / "install_detectron2.py"

if __name__ == "__main__":
    # As a file: the package need not be importable.
    runpy.run_path(str(MODULE), run_name="__main__")
