"""The generated motions: the same in any run, and told apart by their order alone."""

import numpy as np
import pytest

from mvit_det.data.clip_datasets import read_clips
from mvit_det.data.moving_shapes import (
    FRAMES,
    MOTIONS,
    draw_motion,
    draw_steps,
    generate_moving_shapes,
)
from mvit_det.data.videos import VideoReader


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_goes_one_way_and_all_other_properties_return(motion):
    rng = np.random.default_rng(0)
    one_way, direction = MOTIONS[motion]
    for _ in range(20):
        for name, steps in draw_steps(rng, motion).items():
            assert sorted(steps) == list(range(FRAMES))
            changes = np.diff(steps)
            if name == one_way:
                assert (changes == direction).all()
            else:
                assert abs(steps[-1] - steps[0]) <= 2
                assert {-2, 2} <= set(changes)
            if name == "colour" != one_way:
                assert (np.diff(steps >= FRAMES // 2) != 0).sum() == 2


def test_shapes_move_as_they_are_told():
    for seed in range(5):
        frames = draw_motion(np.random.default_rng(seed), "right", 64).astype(int)
        # The first and the last place of the shape differ most.
        changed = abs(frames[0] - frames[-1]).sum((0, 2))
        columns = np.flatnonzero(changed > changed.max() / 2)
        assert columns.min() < 32 < columns.max()


@pytest.mark.parametrize(("motion", "direction"), [("clockwise", 1), ("counterclockwise", -1)])
def test_the_mark_turns_over_the_top(motion, direction):
    for seed in range(5):
        frames = draw_motion(np.random.default_rng(seed), motion, 64).astype(int)
        offsets = []
        for frame in frames:
            red, green, blue = frame.transpose(2, 0, 1)
            mark = green - np.maximum(red, blue) > 80
            body = frame.max(-1) - frame.min(-1) > 120
            (mark_y, mark_x), (y, x) = (np.argwhere(mask).mean(0) for mask in (mark, body))
            assert mark_y < y + 2
            offsets.append(mark_x - x)
        assert np.corrcoef(offsets, np.arange(FRAMES))[0, 1] * direction > 0.8


def test_clips_are_the_same_in_every_run(tmp_path):
    for name, count in (("one", 20), ("more", 30)):
        generate_moving_shapes(tmp_path / name, count, 32, seed=5)
    dataset = read_clips(tmp_path / "one")
    assert dataset.class_names == sorted(MOTIONS)
    assert np.bincount(dataset.labels).tolist() == [2] * 10
    for record in dataset:
        other = record["file_name"].replace("/one/", "/more/")
        with VideoReader(record["file_name"]) as first, VideoReader(other) as second:
            assert np.array_equal(list(first), list(second))
            assert first.position == FRAMES
