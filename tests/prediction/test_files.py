"""Which files names refer to, and where outputs are written."""

from pathlib import Path

import pytest

from mvit_det.errors import ConfigError, ImageError
from mvit_det.prediction.files import Job, find_inputs, plan, results_path


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Images, videos and others in folders; the working folder."""
    monkeypatch.chdir(tmp_path)
    names = ("a/2.png", "a/1.JPG", "a/clip.mov", "a/notes.txt", "a/deep/3.png", "b/2.png", "4.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def found(*names):
    return [path.as_posix() for path in find_inputs(names)]


def outputs(sources, output="out", **options):
    return [
        job.output.as_posix() for job in plan(list(map(Path, sources)), Path(output), **options)
    ]


@pytest.mark.usefixtures("files")
def test_inputs():
    assert found("4.jpg") == ["4.jpg"]
    assert found("a") == ["a/1.JPG", "a/2.png", "a/clip.mov"]
    assert found("*/2.png") == ["a/2.png", "b/2.png"]
    assert found("a/**/*.png") == ["a/2.png", "a/deep/3.png"]
    assert found("a/notes.txt") == ["a/notes.txt"]
    # In the order of the names, and each file once.
    assert found("b/2.png", "./b/../b/2.png", "a", "*/2.png") == [
        *("b/2.png", "a/1.JPG", "a/2.png", "a/clip.mov"),
    ]


def test_a_name_may_look_like_a_pattern(files):
    (files / "a[1].png").touch()
    assert found("a[1].png") == ["a[1].png"]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jpg", "there is no image, video or folder 'nowhere.jpg'"),
        ("a/*.gif", r"there is no image, video or folder 'a/\*.gif'"),
        ("empty", "'empty'"),
        ("", "empty name"),
    ],
)
def test_names_without_files(name, message):
    with pytest.raises(ImageError, match=message):
        find_inputs(["4.jpg", name])


@pytest.mark.usefixtures("files")
def test_names_are_kept():
    jobs = plan([Path("a/2.png"), Path("a/clip.mp4")], Path("out"))
    assert jobs == [
        Job(Path("a/2.png"), Path("out/2.png")),
        Job(Path("a/clip.mp4"), Path("out/clip.mp4"), is_video=True),
    ]
    assert results_path(Path("out"), jobs) == Path("out/predictions.json")


@pytest.mark.usefixtures("files")
def test_equal_names_keep_their_folders():
    sources = ["a/2.png", "b/2.png", "a/1.JPG", "a/deep/2.png"]
    assert outputs(sources) == ["out/a/2.png", "out/b/2.png", "out/1.JPG", "out/a/deep/2.png"]
    assert outputs(["4.jpg", "a/4.jpg"]) == ["out/4.jpg", "out/a/4.jpg"]


@pytest.mark.usefixtures("files")
def test_formats_that_are_not_written():
    sources = ["a/x.gif", "a/x.heic", "a/clip.mov", "no_extension"]
    assert outputs(sources) == [
        *("out/x.gif.png", "out/x.heic.png", "out/clip.mov.mp4", "out/no_extension.png"),
    ]
    assert outputs([], videos=[Path("stream")]) == ["out/stream.mp4"]


@pytest.mark.usefixtures("files")
def test_a_file_for_one_input():
    jobs = plan([Path("4.jpg")], Path("drawn.png"))
    assert jobs == [Job(Path("4.jpg"), Path("drawn.png"))]
    assert results_path(Path("drawn.png"), jobs) is None
    assert outputs(["a/clip.mov"], "drawn.mp4") == ["drawn.mp4"]
    Path("folder.png").mkdir()
    assert outputs(["4.jpg"], "folder.png") == ["folder.png/4.jpg"]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("sources", "output", "message"),
    [
        (["4.jpg"], ".", "overwrite the input '4.jpg'"),
        (["4.jpg"], "a/../4.jpg", "overwrite the input 'a/../4.jpg'"),
        (["b/2.png", "a/1.JPG"], "a", "overwrite the input 'a/1.JPG'"),
        (["4.jpg", "a/2.png"], "x.png", "'x.png' is one file.* 2 inputs"),
        (["4.jpg"], "x.gif", "'x.gif'.* .bmp or"),
        (["a/clip.mov"], "x.avi", "'x.avi'.* .mp4"),
        (["4.jpg"], "a/notes.txt", "'a/notes.txt' is a file"),
        (["a/x.gif", "a/x.gif.png"], "out", "'out/x.gif.png'"),
    ],
)
def test_invalid_outputs(sources, output, message):
    with pytest.raises(ConfigError, match=message):
        outputs(sources, output)
