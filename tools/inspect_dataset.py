#!/usr/bin/env python
"""Validates a dataset and prints its statistics: `mvit-det check-data`."""

import sys

from mvit_det.cli.main import command

main = command("check-data", "tools/inspect_dataset.py")

if __name__ == "__main__":
    sys.exit(main())
