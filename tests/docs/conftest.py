"""Runs the commands of the pages in `docs/`.

A test of a page prepares the files that the page mentions in a temporary folder, and hands the page
to `run_page`:

    def test_prediction(run_page, tmp_path):
        Image.fromarray(image).save(tmp_path / "photo.jpg")
        run_page("prediction.md", tmp_path)
        assert (tmp_path / "output" / "demo_predictions" / "photo.jpg").exists()

All ```bash and ```python blocks of the page run in order in that folder; blocks in other languages,
such as ```text, do not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvit_det.data.shapes import generate_shapes

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is where its code starts."""

    language: str
    code: str
    line: int


def read_blocks(text):
    """The fenced blocks of Markdown, including those indented in a list."""
    blocks = []
    for match in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1``` *$", text, re.M | re.S):
        indent, language, code = match.groups()
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        blocks.append(Block(language, code, text[: match.start(3)].count("\n") + 1))
    return blocks


def prepare(folder):
    """Makes a folder look like a checkout where `python` is this Python.

    `tools` and `configs` are links to those of the checkout. All other files that commands read or
    write are in the folder, including the cache of downloads.

    Returns:
        Environment variables for commands in the folder.
    """
    for name in ("tools", "configs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    python = programs / "python"
    # A link would lose the packages of a virtual environment, which lie beside its program.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    command = programs / "mvit-det"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mvit_det.cli "$@"\n')
    command.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FVCORE_CACHE": str(folder / ".cache"),
        "OMP_NUM_THREADS": "1",
    }


def run_blocks(text, page, folder, environment=None):
    """Runs the blocks of a page in a prepared folder.

    Python blocks share one session. A bash block is a script in which every command has to succeed.

    Args:
        text: of the page.
        page: its path, for messages.
        folder: to run in.
        environment: additional variables for bash and Python.

    Returns:
        The output of each bash block, including standard error.
    """
    blocks = [block for block in read_blocks(text) if block.language in ("bash", "python")]
    assert blocks, f"{page} has nothing to run"
    variables = {**prepare(folder), **(environment or {})}
    session = {"__name__": "__main__"}
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("FVCORE_CACHE", *(environment or {})):
            patch.setenv(name, variables[name])
        for block in blocks:
            if block.language == "python":
                # Empty lines give errors the line number of the page.
                code = "\n" * (block.line - 1) + block.code
                exec(compile(code, str(page), "exec"), session)
                continue
            process = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
                check=False,
            )
            place = f"{page}:{block.line}"
            assert process.returncode == 0, f"{place} failed:\n{block.code}\n{process.stdout}"
            printed.append(process.stdout)
    return printed


@pytest.fixture
def run_page():
    """Runs all blocks of `docs/<name>` in a folder; see `run_blocks`."""

    def run(name, folder, **environment):
        page = ROOT / "docs" / name
        text = page.read_text(encoding="utf-8")
        return run_blocks(text, page, folder, environment)

    return run


@pytest.fixture
def run_text():
    """Like `run_page`, for a string of Markdown."""
    return lambda text, folder, **environment: run_blocks(text, "page.md", folder, environment)


@pytest.fixture
def write_parts():
    """Writes the dataset `parts` of the pages: twelve images of three classes."""

    def write(folder):
        classes = {1: 10, 2: 10, 3: 20, 4: 20, 5: 70}
        for split, seed in (("train", 0), ("val", 1)):
            dataset = generate_shapes(folder / "shapes", 8 if split == "train" else 4, 64, seed)
            for annotation in dataset["annotations"]:
                annotation["category_id"] = classes[annotation["category_id"]]
            names = {10: "bolt", 20: "nut", 70: "washer"}
            dataset["categories"] = [{"id": number, "name": name} for number, name in names.items()]
            (folder / "parts").mkdir(exist_ok=True)
            (folder / "parts" / f"{split}.json").write_text(json.dumps(dataset))
            (folder / "shapes" / "images").rename(folder / "parts" / split)
            shutil.rmtree(folder / "shapes")

    return write
