#!/usr/bin/env python
"""Lists the most probable classes of videos over time: `mvit-det classify-video`."""

import sys

from mvit_det.cli.main import command

main = command("classify-video", "tools/classify_video.py")

if __name__ == "__main__":
    sys.exit(main())
