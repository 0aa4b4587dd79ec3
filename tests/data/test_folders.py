"""Where registered datasets are looked for, and generated."""

import functools
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mvit_det.data import generate_shapes
from mvit_det.data.folders import datasets_folder, new_file, write_text
from mvit_det.data.image_folder import ImageFolder
from mvit_det.data.labelled_files import register_generated
from mvit_det.data.moving_shapes import generate_moving_shapes
from mvit_det.data.shape_classes import generate_shape_classes
from mvit_det.data.shapes import GENERATED, register_shapes
from mvit_det.errors import DatasetError, OutputError

URL = "s3://bucket/sets"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "datasets"),
        ("", "datasets"),
        ("/data/sets", "/data/sets"),
        ("~/sets", "/home/jürgen/sets"),
        ("s3://bucket/sets", "s3://bucket/sets"),
    ],
)
def test_the_variable_names_the_folder(value, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jürgen")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if value is not None:
        monkeypatch.setenv("DETECTRON2_DATASETS", value)
    assert datasets_folder() == expected


@pytest.mark.parametrize(
    "generate", [generate_shapes, generate_shape_classes, generate_moving_shapes]
)
def test_nothing_is_generated_at_a_url(generate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=f"'{URL}'.*DETECTRON2_DATASETS"):
        generate(URL, 1, 64, 0)
    assert list(tmp_path.iterdir()) == []


def test_registered_datasets_are_not_generated_at_a_url(tmp_path, monkeypatch, shapes_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", URL)
    name = "generated_at_a_url"
    try:
        register_shapes()
        generate = functools.partial(generate_shape_classes, num_images=1, size=64, seed=0)
        register_generated(name, generate, ImageFolder)
        for each in (*sorted(GENERATED), name):
            with pytest.raises(DatasetError, match=URL):
                DatasetCatalog.get(each)
        assert MetadataCatalog.get("shapes_val").json_file == f"{URL}/shapes/val/annotations.json"
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        register_shapes(shapes_root)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_keeps_the_old_one(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("old")

    def write():
        with new_file(path) as temporary:
            temporary.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    with new_file(path) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_may_be_behind_a_link_and_have_the_longest_name(tmp_path):
    target, link = tmp_path / f"{'ü' * 120}.json", tmp_path / "link.json"
    link.symlink_to(target)
    assert write_text(link, "\udcff") == link
    assert link.is_symlink()
    assert target.read_text() == "\\udcff"


def test_a_device_stays_one(tmp_path):
    (tmp_path / "link.txt").symlink_to("/dev/full")
    for path in ("/dev/full", tmp_path / "link.txt"):
        with pytest.raises(OutputError, match="No space left on device"):
            write_text(path, "text")
        assert Path("/dev/full").is_char_device()


def test_folders_without_room_are_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        write_text(tmp_path / "file" / "x.txt", "")
