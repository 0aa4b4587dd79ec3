"""The console command: its help, its errors, and one real call of each command."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mvit_det
from mvit_det.cli.arguments import expand_homes
from mvit_det.cli.main import COMMANDS, command, main
from mvit_det.data import generate_shapes


def test_the_overview_needs_no_torch(tmp_path):
    program = """
import sys
from mvit_det.cli.arguments import expand_homes
from mvit_det.cli.main import main
assert main([]) == main(["--help"]) == main(["--version"]) == 0
assert main(["prdict"]) == 2
print([name for name in ("torch", "detectron2", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
    assert "'predict'" in done.stderr
    lines = done.stdout.splitlines()
    assert [name for name in COMMANDS if not any(name in line for line in lines)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_has_three_examples(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(name)(["--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    examples = lines[lines.index("examples:") + 1 :]
    assert sum(line.startswith("  mvit-det ") for line in examples) == 3


@pytest.mark.parametrize("name", ["train", "eval", "predict", "export"])
def test_all_options_are_one_flag_away(name, capsys):
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            command(name)([flag])
    printed = capsys.readouterr().out
    assert printed.count("--trust-checkpoint") == 1
    assert printed.count("exit codes:") == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["tarin"], "'train'"),
        (["zzz"], "check-data"),
        (["predict", "--config-file", "nowhere", "--input", "x.jpg"], "x.jpg"),
        (["check-data", "nowhere.json", "--images", "nowhere"], "'nowhere'"),
        (["convert-weights", "nowhere.pth", "x.pth", "--to", "timm"], "nowhere.pth"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert named in printed.err


def test_a_missing_detectron2_is_named_with_its_remedy(tmp_path):
    program = """
import sys
for name in ("detectron2", "iopath", "omegaconf", "tabulate", "yaml"):
    sys.modules[name] = None
from mvit_det.cli.arguments import expand_homes
from mvit_det.cli.main import COMMANDS, main
for name in COMMANDS:
    if name not in ("doctor", "install-detectron2", "convert-weights"):
        assert main([name, "--help"]) == 2, name
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(COMMANDS) - 3
    assert all(line.endswith("'mvit-det install-detectron2'") for line in lines)


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    python = shlex.quote(sys.executable)
    script = f"set -o pipefail; {python} -m mvit_det.cli models --configs | true"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_models_and_configs_are_listed(capsys):
    assert main(["models"]) == 0
    assert "cascade_mask_rcnn_mvitv2_s" in capsys.readouterr().out
    assert main(["models", "--configs"]) == 0
    assert "shapes/mask_rcnn_mvitv2_pico" in capsys.readouterr().out.splitlines()


def test_home_folders_are_found_where_shells_leave_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    generate_shapes(tmp_path / "my shapes" / "train", 1, 64, seed=0)
    assert main(["convert-data", "~/my shapes", "--output=~/coco"]) == 0
    assert (tmp_path / "coco" / "train.json").is_file()
    assert not (tmp_path / "~").exists()
    assert expand_homes(["~/a", "--b=~/c", "train.output_dir=~/d", "e~/f", "~nobody-has/g"]) == [
        f"{tmp_path}/a", f"--b={tmp_path}/c", "train.output_dir=~/d", "e~/f", "~nobody-has/g",
    ]  # fmt: skip


@pytest.mark.parametrize("output", ["s3://bucket/x", "", "~nobody-has-this-name/x"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["check-data", "x.json"],
        ["convert-data", "x"],
        ["classify", "--config-file=mvitv2_t_in1k", "--input=x"],
        ["classify-video", "--config-file=video_mvitv2_s_k400", "--input=x"],
        ["export", "--config-file=mvitv2_t_in1k", "--format=onnx"],
        ["predict", "--config-file=mask_rcnn_mvitv2_t", "--input=x"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_outputs_that_are_no_paths_are_refused(arguments, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, f"--output={output}"])
    assert "argument --output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["check-data", "x" * 300],
        ["convert-data", "x" * 300, "--output", "out"],
        ["predict", "--config-file", "mask_rcnn_mvitv2_t", "--input", "x" * 300],
        ["train", "--config-file", "x" * 300],
    ],
    ids=lambda arguments: arguments[0],
)
def test_names_that_are_too_long_are_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "File name too long" in error


@pytest.mark.slow
def test_output_needs_no_utf8(tmp_path):
    """Class names, names of files and our own dashes are printed as escapes."""
    generate_shapes(tmp_path / "shapes", 1, 64, seed=0)
    path = tmp_path / "shapes" / "annotations.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "\u5706\U0001f534"
    path.write_text(json.dumps(content))
    moved = os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcll\xff")
    (tmp_path / "shapes").rename(moved)
    done = subprocess.run(
        [sys.executable, "-m", "mvit_det.cli", "check-data", moved],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u5706\U0001f534" in done.stdout
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["-1", "0", "65536"])
def test_a_port_that_there_is_not_is_refused(port, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["app", "--weights=x.pth", f"--port={port}"])
    assert f"--port is {port}" in capsys.readouterr().err


def test_files_are_utf8_in_any_locale(tmp_path):
    """Detectron2 opens configs in the encoding of the locale."""
    program = """
from mvit_det.cli.main import guarded
guarded(lambda: open("config.yaml", "w").write("\\u5706"))
"""
    # In this locale, an editable installation in a folder beyond ASCII is not found.
    environment = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(Path(mvit_det.__file__).parents[1]),
    }
    subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, cwd=tmp_path, check=True
    )
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "\u5706"
