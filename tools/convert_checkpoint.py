#!/usr/bin/env python
"""Converts weights between libraries: `mvit-det convert-weights`."""

import sys

from mvit_det.cli.main import command

main = command("convert-weights", "tools/convert_checkpoint.py")

if __name__ == "__main__":
    sys.exit(main())
