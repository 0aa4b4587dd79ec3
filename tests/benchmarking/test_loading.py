"""Loaders side by side, on generated images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mvit_det.benchmarking import Case, format_rows
from mvit_det.benchmarking.loading import compare_loaders
from mvit_det.errors import ConfigError

CASE = Case(
    task="classification", baseline="timm", image_size=(64, 64), batch=2, repeats=2, warmup=0
)


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(5):
        path = tmp_path / f"class {index % 2}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


def test_both_loaders_are_timed_in_one_thread(folder):
    threads = torch.get_num_threads()
    row = compare_loaders(folder, CASE)
    assert torch.get_num_threads() == threads
    assert {side: len(values) for side, values in row.values.items()} == {
        "candidate": 2,
        "baseline": 2,
    }
    speeds = {side: row.images_per_second(side) for side in row.values}
    assert speeds["candidate"] == pytest.approx(2 / row.median("candidate"))
    line = format_rows([row]).splitlines()[2]
    assert line.startswith("| training loader, one core |")
    assert line.count("images/s") == 2
    assert "× as fast" in line


def test_a_folder_with_less_than_a_batch_is_refused(folder):
    with pytest.raises(ConfigError, match="fewer than 8 images"):
        compare_loaders(folder, replace(CASE, batch=8))
