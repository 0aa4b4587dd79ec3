#!/usr/bin/env python
"""Exports a trained detector to a file that runs without Detectron2: `mvit-det export`."""

import sys

from mvit_det.cli.main import command

main = command("export", "tools/export.py")

if __name__ == "__main__":
    sys.exit(main())
