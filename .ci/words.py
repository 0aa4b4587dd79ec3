#!/usr/bin/env python
"""Finds words that this code base does not use, and prints the field's word for each.

Checks identifiers, comments, messages and pages: all tracked Python, Markdown, TOML and make files.
The exit code is 1 if there are any.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("*.py", "*.md", "*.toml", "Makefile")

# Regular expression → what to say instead.
WORDS = {
    r"pictures?\b": "image",
    r"data sets?\b": "dataset",
    r"data of (one's|your|their) own|\bown[\s_]data\b|use_own_data": "custom dataset",
    r"parts? of (a|the) batch": "micro-batch",
    r"process(es)? that (loads?|trains?)": "DataLoader worker, rank",
    r"whole numbers?\b": "integer",
    r"\ba text\b|\btexts\b": "string",
    r"cut short|\bget (it|them|the file) anew|\banew\b": "truncated; download it again",
    r"(is|are) told of\b|tells? of\b": "with a message on stderr",
    r"\bleft out\b|\bleav(e|es|ing) out\b|\bleaves? (it|them) out": "skip, ignore",
    r"order of (the )?colou?rs": "channel order",
    r"least score": "score threshold",
    r"\baccounting\b": "load report",
    r"fresh[\s_]head|clip_gradient_norm|nonfinite_limit": "reset_head, max_grad_norm, "
    "max_nonfinite_steps",
    r"\bown operators?\b|operators? of (our|one's) own": "custom operator",
    r"\bend(s|ing)? the training of": "freeze",
    r"objects? of a crowd": "crowded region",
    r"\b(of|by) one's own\b": "your own, custom",
    r"\bthereby\b|\bbesides\b": "(leave it out)",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\blikes of\b|\band its like\b": "such as",
}
# Openings that hide the subject of a sentence, at the start of a docstring, comment or paragraph.
OPENINGS = r'^\s*(?:"""|#|[-*])?\s*(?:What|Whatever|That which|So small) (?!if\b|is what\b)[^?\n]*$'

# (file, regular expression): uses that are right.
OLD_NAMES = r"fresh_head|clip_gradient_norm|nonfinite_limit|own_data"
EXCEPTIONS = (
    (".ci/words.py", r".*"),
    ("CHANGELOG.md", OLD_NAMES),
    ("mvit_det/config/schema.py", OLD_NAMES),  # which names replace them
    ("tests/config/test_overrides.py", OLD_NAMES),
    ("tests/test_plotting.py", r"texts"),  # matplotlib's name
)


def main() -> int:
    """Prints one line per word and file; returns the exit code."""
    listed = subprocess.run(
        ["git", "ls-files", *FILES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = listed.stdout.splitlines()
    found = [line for name in names for line in check(name)]
    print("\n".join(found) or f"All checked in {len(names)} files: no unwanted words")
    return 1 if found else 0


def check(name: str) -> list[str]:
    """The unwanted words in a file, as `file:line: 'word': say …`."""
    allowed = "|".join(pattern for file, pattern in EXCEPTIONS if file == name) or r"(?!)"
    found = []
    text = (ROOT / name).read_text(encoding="utf-8")
    for pattern, better in WORDS.items():
        # Words may be separated by a line break, with a comment sign or indentation after it.
        spaced = pattern.replace(" ", r"(?: |\n\s*(?:# )?)")
        for match in re.finditer(spaced, text, re.IGNORECASE):
            if not re.search(allowed, match[0]):
                line = text.count("\n", 0, match.start()) + 1
                found.append(f"{name}:{line}: '{' '.join(match[0].split())}': say {better}")
    for match in re.finditer(OPENINGS, text, re.MULTILINE):
        if not re.search(allowed, match[0]):
            line = text.count("\n", 0, match.start(0)) + 1
            found.append(f"{name}:{line}: '{match[0].strip()[:40]}…': name the subject first")
    return found


if __name__ == "__main__":
    sys.exit(main())
