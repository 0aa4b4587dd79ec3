"""The argument parser of the commands, and the options that several of them have."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.folders import check_writable
from ..data.urls import expand_home, is_url
from ..errors import ConfigError, OutputError

WIDTH = 100
_OPTION = re.compile(r"(--?[\w-]+=)?(?=~)")


class Parser(argparse.ArgumentParser):
    """Shows the usual options on one screen with `--help`, and all with `--help-all`.

    Args:
        prog: the name of the program, which `{prog}` in examples stands for.
        arguments: the command line, which decides how much the help shows.
        usage: what follows the name of the program.
        summary: one sentence.
        examples: command lines.
        details: paragraphs for `--help-all`.
    """

    def __init__(
        self,
        prog: str,
        arguments: Sequence[str],
        *,
        usage: str,
        summary: str,
        examples: Sequence[str],
        details: str = "",
    ) -> None:
        self.shows_all = "--help-all" in arguments
        lines = ["examples:", *(f"  {example.format(prog=prog)}" for example in examples)]
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {usage}",
            description=summary,
            epilog="\n".join(lines + (["", details.strip()] if self.shows_all else [])),
            formatter_class=_Formatter,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="help", help="show this help")
        self._rare_group = self.add_argument_group("more options")
        self.add_argument("--help-all", action="help", help="show all options and exit codes")

    def add_rare(self, *names: str, help: str = "", **options: Any) -> argparse.Action:
        """Adds an option that only `--help-all` shows."""
        shown = help if self.shows_all else argparse.SUPPRESS
        return self._rare_group.add_argument(*names, help=shown, **options)

    def add_config(self, weights: bool = True) -> None:
        """Adds `--config-file`, and `--weights` where the command needs trained ones."""
        self.add_argument(
            "--config-file", metavar="CONFIG",
            help="file or name, such as mask_rcnn_mvitv2_t; see 'mvit-det models'",
        )  # fmt: skip
        if weights:
            self.add_argument(
                "--weights", metavar="PATH",
                help="file or URL; default: those of the published model",
            )  # fmt: skip
            self.add_rare("--opts", nargs="*", default=[], metavar="KEY=VALUE",
                          help="overrides of fields of the config")  # fmt: skip

    def add_trust(self) -> None:
        """Adds `--trust-checkpoint`."""
        self.add_rare(
            "--trust-checkpoint",
            action="store_true",
            help="let a weights file run code while it is read; only if you know its origin",
        )


def expand_homes(arguments: Sequence[str]) -> list[str]:
    """Arguments with the home folder for `~`, where shells leave it: `--data=~/parts`, `'~/a b'`.

    Overrides of a config are expanded with it, as they may hold other values than paths.
    """
    parts = (_OPTION.match(each) for each in arguments)
    return [
        each[: match.end()] + os.path.expanduser(each[match.end() :]) if match else each
        for each, match in zip(arguments, parts)
    ]


def output_path(text: str) -> Path:
    """The type of an option for outputs, which are written to files only."""
    if is_url(text):
        raise argparse.ArgumentTypeError(
            f"'{text}' is a URL, and outputs are written to files; name a folder, and upload it"
        )
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; name a file or a folder")
    try:
        return Path(expand_home(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def prepare_folder(folder: Path) -> None:
    """Creates the folder of `--output`, before anything slow starts.

    Raises:
        OutputError: nothing can be written there.
    """
    try:
        check_writable(folder)
    except OSError as error:
        reason = "a file has this name" if isinstance(error, FileExistsError) else error.strerror
        raise OutputError(
            f"cannot write to the folder '{folder}' ({reason}); name another one with --output"
        ) from error


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Lines of the same width on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=WIDTH)
