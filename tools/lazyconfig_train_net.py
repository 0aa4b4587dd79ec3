#!/usr/bin/env python
"""Trains or evaluates the model of a LazyConfig file: `mvit-det train`, with --eval-only."""

import sys

from mvit_det.cli.main import command

main = command("train", "tools/lazyconfig_train_net.py")

if __name__ == "__main__":
    sys.exit(main())
