#!/usr/bin/env python
"""Lists the most probable classes of images: `mvit-det classify`."""

import sys

from mvit_det.cli.main import command

main = command("classify", "tools/classify.py")

if __name__ == "__main__":
    sys.exit(main())
