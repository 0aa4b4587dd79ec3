"""From a video file to the clips that a classifier takes."""

import random
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from .clip_crops import crop_squares, resize_short_side, scaled_size, stack_views
from .clip_sampling import Sampling
from .rand_augment import RandAugment
from .sampling import derive_seed
from .videos import read_frames

View = Callable[[np.ndarray], np.ndarray]


class ClipMapper:
    """Reads clips of a video and crops them to squares, at random in training.

    Training draws one clip, and `repeats` times an area, a flip and operations of `augment`, which
    are the same for all frames (repeated augmentation: Hoffer et al., 2020). Evaluation takes
    `clips` clips spread over the video, and of each `crops` squares along its longer side. Frames
    are resized bilinearly. All randomness is drawn from the global generators of Python and
    PyTorch.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        sampling: Sampling,
        image_size: int = 224,
        scale: tuple[float, float] | None = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        short_sides: tuple[int, int] = (256, 320),
        flip: float = 0.5,
        augment: RandAugment | None = None,
        repeats: int = 1,
        clips: int = 5,
        crops: int = 1,
        short_side: int = 256,
        shuffle_frames: bool = False,
    ) -> None:
        """Builds the mapper.

        Args:
            is_train: whether clips are augmented.
            sampling: chooses the frames of a clip.
            image_size: side of the result in pixels.
            scale: least and largest area of a training crop, as a share of the frame's; None
                resizes the short side at random instead, and crops a square of the final size.
            ratio: least and largest width over height of a training crop, with `scale`.
            short_sides: least and largest short side, without `scale`.
            flip: probability of a horizontal flip in training.
            augment: further augmentation of training clips of the final size.
            repeats: differently augmented views of a training clip.
            clips: clips of a video, in evaluation.
            crops: squares of each clip, in evaluation: 1, the centre, or 3.
            short_side: that the centre is taken from, in pixels; with three crops it is image_size.
            shuffle_frames: puts the frames of each clip in a random order, in evaluation, which
                shows how far a model uses motion.

        Raises:
            ValueError: an argument is out of its range.
        """
        for name, value in (("image_size", image_size), ("repeats", repeats), ("clips", clips)):
            if value < 1:
                raise ValueError(f"{name} must be positive, not {value}")
        if crops not in (1, 3):
            raise ValueError(f"crops must be 1 or 3, not {crops}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip must be from 0 to 1, not {flip}")
        if crops == 1 and not is_train and short_side < image_size:
            raise ValueError(f"short_side is {short_side}, less than the image_size {image_size}")
        if scale is None and short_sides[0] < image_size:
            raise ValueError(f"short_sides begin at {short_sides[0]}, below {image_size} pixels")
        self.is_train = is_train
        self.sampling = sampling
        self.image_size = image_size
        self.scale = None if scale is None else tuple(scale)
        self.ratio = tuple(ratio)
        self.short_sides = tuple(short_sides)
        self.flip = flip
        self.augment = augment
        self.repeats = repeats
        self.clips = clips
        self.crops = crops
        self.short_side = short_side if crops == 1 else image_size
        self.shuffle_frames = shuffle_frames

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds `image`, (V, 3, T, image_size, image_size) uint8 RGB, with V views, to a record.

        Raises:
            ImageError: the video is missing or cannot be read.
        """
        read = self._training_views if self.is_train else self._evaluation_views
        return {**record, "image": read(record)}

    def crop(self, frame: np.ndarray) -> list[np.ndarray]:
        """The squares that evaluation takes of a frame, (S, S, 3) uint8 each."""
        return crop_squares(frame, self.image_size, self.short_side, self.crops)

    def _training_views(self, record: dict[str, Any]) -> Tensor:
        views: list[View] = []

        def process(frame: np.ndarray) -> list[np.ndarray]:
            # The size is known with the first frame.
            if not views:
                views.extend(self._draw_view(*frame.shape[:2]) for _ in range(self.repeats))
            return [view(frame) for view in views]

        frames = read_frames(record["file_name"], self.sampling.at_random, process)
        return torch.from_numpy(stack_views(frames))

    def _evaluation_views(self, record: dict[str, Any]) -> Tensor:
        def choose(length: int, rate: float) -> np.ndarray:
            chosen = self.sampling.uniform(length, rate, self.clips)
            if self.shuffle_frames:
                seed = derive_seed("shuffled frames", record.get("image_id", 0))
                chosen = np.random.default_rng(seed).permuted(chosen, axis=1)
            return chosen

        # Clip by clip.
        frames = read_frames(record["file_name"], choose, self.crop)
        length = self.sampling.num_frames
        clips = [stack_views(frames[i : i + length]) for i in range(0, len(frames), length)]
        return torch.from_numpy(np.concatenate(clips))

    def _draw_view(self, height: int, width: int) -> View:
        """Draws the crop, the flip and the operations of a clip of frames of this size."""
        size = self.image_size
        if self.scale is not None:
            shape = torch.empty(1, height, width)
            top, left, rows, columns = RandomResizedCrop.get_params(shape, self.scale, self.ratio)
            resized = None
        else:
            low, high = self.short_sides
            # Uniform in 1 / short side, as in SlowFast.
            resized = round(1 / random.uniform(1 / high, 1 / low))
            new_height, new_width = scaled_size(height, width, resized)
            top = random.randint(0, new_height - size)
            left = random.randint(0, new_width - size)
            rows = columns = size
        is_flipped = bool(torch.rand(()) < self.flip)
        operations = None if self.augment is None else self.augment.draw()

        def view(frame: np.ndarray) -> np.ndarray:
            if resized is not None:
                frame = resize_short_side(frame, resized)
            frame = frame[top : top + rows, left : left + columns]
            frame = cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR)
            if is_flipped:
                frame = frame[:, ::-1]
            if operations is not None:
                image = Image.fromarray(np.ascontiguousarray(frame))
                frame = np.asarray(operations(image))
            return frame

        return view
