#!/usr/bin/env python
"""Draws the instances that a detector finds in images and videos: `mvit-det predict`."""

import sys

from mvit_det.cli.main import command

main = command("predict", "tools/demo.py")

if __name__ == "__main__":
    sys.exit(main())
