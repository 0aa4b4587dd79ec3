"""A training as an image, and the file that it is drawn from."""

import json

import numpy as np
import pytest
from PIL import Image

from mvit_det.engine.training_plot import read_metrics, save_training_plot


def line(iteration, loss=1.0, **more):
    return json.dumps({"iteration": iteration, "total_loss": loss, **more}) + "\n"


def write(tmp_path, text):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    return path


def test_rows_of_one_iteration_are_put_together(tmp_path):
    # The writer puts an evaluation between two of its turns behind the training's own metrics.
    text = line(19) + line(39, 0.5) + '{"iteration": 29, "bbox/AP": 7.0}\n' + line(59)
    text += '{"iteration": 59, "bbox/AP": NaN}\n'
    rows = read_metrics(write(tmp_path, text))
    assert [row["iteration"] for row in rows] == [19, 29, 39, 59]
    assert rows[1] == {"iteration": 29, "bbox/AP": 7.0}
    assert rows[2]["total_loss"] == 0.5
    assert np.isnan(rows[3]["bbox/AP"])
    assert rows[3]["total_loss"] == 1


def test_a_resumed_training_replaces_what_came_later(tmp_path):
    before = "".join(line(number, 1.0) for number in (9, 19, 29, 39))
    before += '{"iteration": 34, "bbox/AP": 1.0}\n'
    after = "".join(line(number, 2.0) for number in (21, 26))
    rows = read_metrics(write(tmp_path, before + after))
    assert [(row["iteration"], row["total_loss"]) for row in rows] == [
        (9, 1),
        (19, 1),
        (21, 2),
        (26, 2),
    ]


@pytest.mark.parametrize(
    "cut", ['{"iteration": 29, "total_l', '{"iteration": 2', "{", "12\n", "\0"]
)
def test_lines_that_were_cut_are_skipped(tmp_path, cut):
    rows = read_metrics(write(tmp_path, line(9) + line(19) + cut))
    assert [row["iteration"] for row in rows] == [9, 19]
    # The next process goes on in the same line.
    rows = read_metrics(write(tmp_path, line(9) + cut + line(19, 3.0, **{"bbox/AP-a{b": 1.0})))
    assert [row["iteration"] for row in rows if row["total_loss"] != 3] == [9]


def test_what_the_next_process_writes_behind_it_is_read(tmp_path):
    text = line(9) + '{"iteration": 19, "total_loss": 1.' + line(29, 3.0) + line(39, 4.0)
    assert [row["iteration"] for row in read_metrics(write(tmp_path, text))] == [9, 29, 39]


def test_names_with_braces_are_read(tmp_path):
    rows = read_metrics(write(tmp_path, line(9, **{"bbox/AP-a{b": 1.0})))
    assert rows == [{"iteration": 9, "total_loss": 1.0, "bbox/AP-a{b": 1.0}]


def read(path):
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert image.shape == (800, 1500, 3)
    return image


def coloured(image):
    return (np.ptp(image, axis=2) > 60).mean()


def test_curves_are_drawn_where_there_are_values(tmp_path):
    everything = "".join(
        line(
            number,
            float("nan") if number == 20 else 50 / (number + 1),
            loss_cls=0.5,
            loss_mask=1 / (number + 1),
            lr=1e-3,
            images_per_second=12.0,
            max_mem=2048.0,
            **{"bbox/AP": number / 2, "ema/segm/AP": 3.0, "validation/total_loss": 1.5}
            if number % 10 == 0
            else {},
        )
        for number in range(60)
    )
    save_training_plot(write(tmp_path, everything), tmp_path / "all.png")
    save_training_plot(write(tmp_path, line(9)), tmp_path / "one.png")
    save_training_plot(write(tmp_path, ""), tmp_path / "none.png")
    full, one, none = (read(tmp_path / f"{name}.png") for name in ("all", "one", "none"))
    for row in (slice(0, 400), slice(400, 800)):
        for column in range(3):
            panel = slice(500 * column, 500 * (column + 1))
            assert coloured(full[row, panel]) > 0.001
    assert coloured(full) > coloured(one) > coloured(none) == 0
    assert (none < 128).any()
