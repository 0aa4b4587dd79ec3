"""`python -m mvit_det.cli …` is `mvit-det …`, for torchrun and environments that are not active."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
