"""The commands of a page really run, and errors in them are found."""

import sys

import pytest


def test_blocks_run_in_order_in_one_folder(run_text, tmp_path):
    (tmp_path / "given.txt").write_text("given")
    printed = run_text(
        "# Page\n\n"
        "```bash\ncat given.txt > \\\n    copy.txt\necho one\n```\n\n"
        "```python\nfrom pathlib import Path\n\nnumber = len(Path('copy.txt').read_text())\n```\n"
        "```text\nexit 1\n```\n"
        "1. In a list:\n"
        "   ```python\n   if number == 5:\n       Path('five').touch()\n   ```\n"
        "2. ```\n   exit 1\n   ```\n\n"
        "```bash\nls five tools/make_shapes.py; echo $WORD\n```\n",
        tmp_path,
        WORD="word",
    )
    assert printed[0] == "one\n"
    assert printed[1] == "five\ntools/make_shapes.py\nword\n"


def test_python_is_this_python_with_this_package(run_text, tmp_path):
    (printed,) = run_text(
        "```bash\n"
        'python -c "import sys, importlib.util; print(sys.prefix); '
        "print(importlib.util.find_spec('mvit_det').origin); "
        "print(importlib.util.find_spec('torch').name)\"\n"
        "```\n",
        tmp_path,
    )
    import mvit_det

    assert printed.splitlines() == [sys.prefix, mvit_det.__file__, "torch"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("```bash\necho before\nfalse\ntrue\n```\n", AssertionError, "page.md:2 failed:.*before"),
        ("```bash\nfalse | cat\n```\n", AssertionError, "page.md:2 failed"),
        ("Text.\n\n```python\nx = 1\nx.y\n```\n", AttributeError, "no attribute 'y'"),
        ("```text\nnothing\n```\n", AssertionError, "page.md has nothing to run"),
    ],
)
def test_a_page_that_fails_is_found_out(text, error, message, run_text, tmp_path):
    with pytest.raises(error, match=f"(?s){message}") as raised:
        run_text(text, tmp_path)
    if error is AttributeError:
        place = raised.traceback[-1]
        assert (str(place.path), place.lineno + 1) == ("page.md", 5)
