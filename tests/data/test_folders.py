"""Where registered datasets are looked for."""

import pytest

from mvit_det.data.folders import datasets_folder


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
