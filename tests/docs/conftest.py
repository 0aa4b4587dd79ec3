"""Runs what the pages in `docs/` tell their readers to run.

A test of a page prepares the files that the page speaks of in a folder of its own, and hands the
page to `run_page`:

    def test_prediction(run_page, tmp_path):
        Image.fromarray(image).save(tmp_path / "photo.jpg")
        run_page("prediction.md", tmp_path)
        assert (tmp_path / "output" / "demo_predictions" / "photo.jpg").exists()

Every ```bash and every ```python block of the page is run, in order, in that folder; blocks in any
other language, such as ```text, are left alone.
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
    """A fenced block of a page; `line` is that of its first line of code."""

    language: str
    code: str
    line: int


def read_blocks(text):
    """The fenced blocks of Markdown, also those that are indented in a list."""
    blocks = []
    for match in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1``` *$", text, re.M | re.S):
        indent, language, code = match.groups()
        code = "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        blocks.append(Block(language, code, text[: match.start(3)].count("\n") + 1))
    return blocks


def prepare(folder):
    """Makes a folder look like a checkout where `python` is this Python; returns its variables.

    `tools` and `configs` lead to those of the checkout. Everything else that commands name or
    write is in the folder, and so is the cache of downloads.
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
    return {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FVCORE_CACHE": str(folder / ".cache"),
        "OMP_NUM_THREADS": "1",
    }


def run_blocks(text, page, folder, environment=None):
    """Runs the blocks of a page in a folder that is prepared for it.

    Blocks of Python go on from one another, as in one session. A block of bash is a script, which
    has to succeed as a whole.

    Args:
        text: of the page.
        page: its path, for messages.
        folder: to run in.
        environment: variables for bash and Python, besides those of this process.

    Returns:
        What each block of bash printed, standard error included.
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
                # Lines before the code put that of errors at its place in the page.
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
    """As `run_page`, for the text of a page."""
    return lambda text, folder, **environment: run_blocks(text, "page.md", folder, environment)


@pytest.fixture
def write_parts():
    """Writes `parts` into a folder: twelve images of three kinds of parts, as the pages say."""

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
