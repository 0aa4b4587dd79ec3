"""Runs a script whose files may not grow beyond a number of bytes, as if the disk were full."""

import resource
import runpy
import signal
import sys

if __name__ == "__main__":
    limit, script, *arguments = sys.argv[1:]
    # Then writing fails with an error, and does not end the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    sys.argv = [script, *arguments]
    sys.path.insert(0, ".")
    runpy.run_path(script, run_name="__main__")
