"""Starts the command that is named, and turns its errors into one line and an exit code.

A command is a module with `main(arguments, prog)`, which returns the exit code. It is imported when
it is asked for, so that `mvit-det --help` and a typing error do not wait for PyTorch.
"""

import contextlib
import difflib
import errno
import importlib
import io
import locale
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from .. import __version__
from ..errors import DISK_ERRORS, MViTDetError

# Name of a command → its summary. The module has the same name, with underscores.
COMMANDS = {
    "train": "train a detector or a classifier, also on your own dataset",
    "eval": "evaluate trained weights",
    "predict": "draw and list the objects in images and videos",
    "app": "open a page in the browser that finds the objects in images and videos",
    "classify": "list the most probable classes of images",
    "classify-video": "list the most probable classes of videos over time",
    "check-data": "find mistakes in a dataset, and count its images and objects",
    "convert-data": "convert a dataset from YOLO, Pascal VOC or LabelMe to COCO's format",
    "export": "write a file for ONNX Runtime, OpenVINO or torch.export",
    "convert-weights": "convert weights between mvit_det, Detectron2, timm and others",
    "models": "list published models and configs",
    "doctor": "check the installation, and say how to fix it",
    "install-detectron2": "install Detectron2, which is not on the package index",
}
EXAMPLES = (
    "mvit-det models",
    "mvit-det predict --config-file mask_rcnn_mvitv2_t --input photo.jpg",
    "mvit-det train --help",
)
_DETECTRON2 = (
    "Detectron2, which has no release on the package index; install it with "
    "'mvit-det install-detectron2'"
)
# Library → how to install it; some come with Detectron2.
INSTALL = {
    **dict.fromkeys(("detectron2", "iopath", "omegaconf", "tabulate", "yaml"), _DETECTRON2),
    "gradio": "Gradio; install it with 'pip install \"mvit_det[app]\"'",
    "torch": "PyTorch; install it with 'pip install torch torchvision'",
    "torchvision": "torchvision; install it with 'pip install torch torchvision'",
}
# Of the disk, and of a missing folder for temporary files, which name no file.
_FILE_ERRORS = errno.ENOENT, *DISK_ERRORS


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `mvit-det` and returns its exit code."""
    allow_any_text()
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"mvit_det {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(COMMANDS)}"
        print(f"mvit-det: there is no command '{name}'; {hint}", file=sys.stderr)
        return 2
    return command(name)(rest)


def overview() -> str:
    """The help of `mvit-det` itself."""
    return "\n".join(
        [
            "usage: mvit-det COMMAND …",
            "\nMViTv2 for Detectron2: object detection, instance segmentation, classification.\n",
            *(f"  {name:20}{summary}" for name, summary in COMMANDS.items()),
            "\n'mvit-det COMMAND --help' lists the options of a command. Examples:\n",
            *(f"  {example}" for example in EXAMPLES),
        ]
    )


def command(name: str, prog: str = "") -> Callable[..., int]:
    """The function that runs a command, with the errors of all commands handled.

    Exit codes: that of the command; 2 for a mistake in the command line or its files; 130 after
    Ctrl-C; 141 where the reader of a pipe has gone.

    Args:
        name: key of `COMMANDS`.
        prog: how the help and the errors call it; default: `mvit-det NAME`.
    """

    def run(arguments: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)

        def start() -> int:
            from .arguments import expand_homes

            module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
            return module.main(expand_homes(given), prog or f"mvit-det {name}")

        _quieten()
        try:
            return guarded(start, debug="--debug" in given)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in INSTALL:
                raise
            print(f"error: 'mvit-det {name}' needs {INSTALL[library]}", file=sys.stderr)
            return 2

    return run


def guarded(start: Callable[[], int | None], code: int = 2, debug: bool = False) -> int:
    """Runs a program, and turns its errors into one line and an exit code.

    Args:
        start: the program, which returns its exit code, or None for 0.
        code: for errors that a user can fix.
        debug: shows the traceback of such an error instead.
    """
    allow_any_text()
    _use_utf8()
    try:
        result = start() or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return result
    except MViTDetError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return code
    except KeyboardInterrupt:
        print("interrupted; the outputs written so far are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        is_of_file = error.filename is not None or error.errno in _FILE_ERRORS
        if debug or not is_of_file:
            raise
        where = "" if error.filename is None else f"cannot use '{_shown(error.filename)}': "
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return code


def allow_any_text(*streams: Any) -> None:
    """Has streams escape letters that their encoding lacks, and bytes of paths that are no UTF-8.

    Python raises an error for them, for example in containers whose output is ASCII.

    Args:
        streams: default: standard output and standard error.
    """
    for stream in streams or (sys.stdout, sys.stderr):
        # Tests and notebooks replace them; None stands for a closed one.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _use_utf8() -> None:
    """Has this process and its children read and write files in UTF-8, whatever the locale.

    Detectron2 opens configs in the encoding of the locale, such as ASCII or Latin-1.
    """
    if locale.getpreferredencoding(False).lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        # Windows and macOS have no such locale; macOS is UTF-8 anyway.
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _quieten() -> None:
    """Silences messages of libraries about which users can do nothing."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Detectron2 calls torch.meshgrid in a deprecated way.
    warnings.filterwarnings("ignore", "torch.meshgrid")
    logging.getLogger("torch.fx").setLevel(logging.ERROR)


def _shown(name: Any) -> str:
    """A file name for a message, which may be too long to be one."""
    text = os.fsdecode(name) if isinstance(name, (str, bytes, os.PathLike)) else str(name)
    return text if len(text) <= 300 else f"{text[:200]}…{text[-80:]}"
