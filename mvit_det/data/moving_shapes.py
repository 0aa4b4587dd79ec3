"""Generated clips whose classes are motions: a video classification dataset in half a minute.

Every clip shows one shape that moves along both axes, changes its size, turns, and is orange in
half of the frames and blue in the others. All of this goes there and back, except for the one
change that is the class: it goes one way. Over a clip each property takes the same values in every
class, so that single frames, and frames without their order, tell nothing. A green mark shows how
far a shape has turned, which shapes of a few pixels would not.
"""

import contextlib
import functools
import os
from pathlib import Path

import cv2
import numpy as np

from .clip_datasets import read_clips
from .folders import local_folder, new_folder
from .labelled_files import register_generated
from .shape_scene import CATEGORIES, FINENESS, draw_colour, draw_texture, shape_outline
from .videos import check_video_path

# The property that changes one way, and the direction.
MOTIONS = {
    "right": ("x", 1),
    "left": ("x", -1),
    "down": ("y", 1),
    "up": ("y", -1),
    "growing": ("size", 1),
    "shrinking": ("size", -1),
    "clockwise": ("angle", 1),
    "counterclockwise": ("angle", -1),
    "orange_then_blue": ("colour", 1),
    "blue_then_orange": ("colour", -1),
}
PROPERTIES = ("x", "y", "size", "angle", "colour")
SHAPES = ("circle", "square", "triangle")
# Number of clips and seed of each registered dataset.
SPLITS = {"moving_shapes_train": (6000, 200), "moving_shapes_val": (500, 201)}
SIZE, FRAMES, RATE = 48, 16, 30.0

# Distance of the centre from that of the image, in its sides; radius, in its sides; and turn of the
# mark, around a direction near the top. With any direction the small model of the quick start told
# turns from other motions, but not from each other: their sense is a product of two directions.
_REACH = 0.22
_RADII = 0.14, 0.3
_TURN = np.radians(120)
_TILT = np.radians(30)
# Corners of the mark, (P, 2) x, y in radii of the shape.
_ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_MARK = np.stack([0.62 + 0.36 * np.cos(_ANGLES), 0.36 * np.sin(_ANGLES)], axis=1)
# More saturated than any background.
_ORANGE, _BLUE, _GREEN = np.array([(240, 120, 20), (30, 80, 230), (40, 220, 60)], np.float32)
_GRAIN = 5.0


def generate_moving_shapes(
    output_dir: str | os.PathLike[str], num_clips: int, size: int, seed: int
) -> None:
    """Writes `<class>/000001.mp4`, …, clips of `FRAMES` frames.

    Clip i depends on the seed, the size and i alone; classes take turns. The folder appears once it
    is complete.

    Args:
        output_dir: folder to create; an existing one is left as it is.
        num_clips: number of clips.
        size: side in pixels, even.
        seed: 0 or more.

    Raises:
        DatasetError: `output_dir` is a URL.
        OSError: the folder cannot be written.
    """
    output = local_folder(output_dir)
    # Another process may be faster.
    with contextlib.suppress(FileExistsError), new_folder(output) as unfinished:
        for name in MOTIONS:
            (unfinished / name).mkdir()
        for index in range(num_clips):
            name = list(MOTIONS)[index % len(MOTIONS)]
            frames = draw_motion(np.random.default_rng([seed, index]), name, size)
            _write(unfinished / name / f"{index + 1:06d}.mp4", frames)


def draw_motion(rng: np.random.Generator, motion: str, size: int) -> np.ndarray:
    """Draws a clip.

    Args:
        rng: the only source of randomness.
        motion: one of `MOTIONS`.
        size: side in pixels.

    Returns:
        (FRAMES, size, size, 3) uint8 RGB.
    """
    steps = draw_steps(rng, motion)
    outline = shape_outline(rng, CATEGORIES.index(rng.choice(SHAPES)), 1.0)
    middle_angle = rng.uniform(-_TILT, _TILT) - np.pi / 2
    behind = draw_colour(rng, saturation=(0.05, 0.35), value=(0.25, 0.85))
    background, _ = draw_texture(rng, size, size, size, behind)
    frames = []
    for number in range(FRAMES):
        # From -1 to 1.
        at = {name: 2 * steps[name][number] / (FRAMES - 1) - 1 for name in PROPERTIES}
        radius = size * np.interp(at["size"], (-1, 1), _RADII)
        centre = size * (0.5 + _REACH * np.array([at["x"], at["y"]]))
        angle = middle_angle + at["angle"] * _TURN / 2
        # Clockwise as seen, because y points down.
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        colour = _BLUE if at["colour"] > 0 else _ORANGE
        frame = background
        for corners, paint in ((outline, colour), (_MARK, _GREEN)):
            frame = _fill(frame, radius * corners @ turn + centre, paint)
        grain = rng.standard_normal((size, size, 1), dtype=np.float32) * _GRAIN
        frames.append(np.clip(frame + grain, 0, 255).astype(np.uint8))
    return np.stack(frames)


def draw_steps(rng: np.random.Generator, motion: str) -> dict[str, np.ndarray]:
    """Draws the course of each of `PROPERTIES`, an order of 0 to FRAMES - 1, (FRAMES,) int64.

    Those that are not the motion go up in steps of two and down by the other values. They begin
    anywhere, so that they vary independently. The colour begins with an extreme value: it must
    change twice.
    """
    one_way, direction = MOTIONS[motion]
    cycle = np.concatenate([np.arange(0, FRAMES, 2), np.arange(1, FRAMES, 2)[::-1]])
    steps = {}
    for name in PROPERTIES:
        if name == one_way:
            steps[name] = np.arange(FRAMES)[::direction]
        elif name == "colour":
            steps[name] = np.roll(cycle, rng.integers(-1, 2) + rng.integers(2) * FRAMES // 2)
        else:
            steps[name] = np.roll(cycle, rng.integers(FRAMES))
    return steps


def register_moving_shapes() -> None:
    """Registers `SPLITS` below `$DETECTRON2_DATASETS`, by default `datasets`.

    They are generated when they are first loaded.
    """
    for name, (num_clips, seed) in SPLITS.items():
        generate = functools.partial(
            generate_moving_shapes, num_clips=num_clips, size=SIZE, seed=seed
        )
        register_generated(name, generate, read_clips, thing_classes=sorted(MOTIONS))


def _fill(frame: np.ndarray, corners: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The frame with a polygon of this colour, with smooth edges."""
    size = len(frame)
    covered = np.zeros((size * FINENESS, size * FINENESS), np.float32)
    cv2.fillPoly(covered, [np.rint(corners * FINENESS).astype(np.int32)], 1.0)
    coverage = cv2.resize(covered, (size, size), interpolation=cv2.INTER_AREA)[..., None]
    return frame + coverage * (colour - frame)


def _write(path: Path, frames: np.ndarray) -> None:
    check_video_path(path)
    size = frames.shape[2], frames.shape[1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, size)
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    if not path.is_file():
        raise OSError(f"cannot write '{path}'; is the disk full?")


register_moving_shapes()
