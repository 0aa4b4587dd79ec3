"""From an image file to what a classifier takes."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from .images import read_rgb

CROPS = ("center", "full")
Augmentation = Callable[[Image.Image], Image.Image]


class ClassificationMapper:
    """Reads an image and crops it to a square, at random in training.

    Training takes a part of the image of random area and aspect ratio, flips it, and applies
    `augment`. Evaluation resizes the short side to image_size / crop_ratio and takes the centre
    ("center"), or squashes the whole image ("full", which suits models fine-tuned at a higher
    resolution; MViTv2, table 4). Resizing is bicubic. All randomness is drawn from Python's
    global generator.
    """

    def __init__(
        self,
        *,
        is_train: bool,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        augment: Augmentation | None = None,
        crop: str = "center",
        crop_ratio: float = 0.875,
    ) -> None:
        """Builds the mapper.

        Args:
            is_train: whether images are augmented.
            image_size: side of the result in pixels.
            scale: least and largest area of a training crop, as a share of the image's.
            ratio: least and largest width over height of a training crop.
            flip: probability of a horizontal flip in training.
            augment: further augmentation of training images of the final size.
            crop: "center" or "full", in evaluation.
            crop_ratio: image_size over the short side that the centre is taken from.

        Raises:
            ValueError: an argument is out of its range.
        """
        if image_size < 1:
            raise ValueError(f"image_size must be positive, not {image_size}")
        if crop not in CROPS:
            raise ValueError(f"crop must be one of {', '.join(CROPS)}, not '{crop}'")
        if not 0 < crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be above 0 and at most 1, not {crop_ratio}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip must be from 0 to 1, not {flip}")
        self.is_train = is_train
        self.image_size = image_size
        self.scale = tuple(scale)
        self.ratio = tuple(ratio)
        self.flip = flip
        self.augment = augment
        self.crop = crop
        self.crop_ratio = crop_ratio

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Adds `image`, (3, image_size, image_size) uint8 RGB, `height` and `width` to a record.

        Raises:
            ImageError: the image is missing or cannot be read.
        """
        image = read_rgb(record["file_name"])
        cropped = np.asarray(self.transform(image)).transpose(2, 0, 1).copy()
        size = {"height": image.height, "width": image.width}
        return {**record, "image": torch.from_numpy(cropped), **size}

    def transform(self, image: Image.Image) -> Image.Image:
        """Crops and augments an RGB image."""
        if self.is_train:
            return self._augmented(image)
        size = [self.image_size, self.image_size]
        if self.crop == "full":
            return F.resize(image, size, InterpolationMode.BICUBIC)
        short_side = int(self.image_size / self.crop_ratio)
        image = F.resize(image, [short_side], InterpolationMode.BICUBIC)
        return F.center_crop(image, size)

    def _augmented(self, image: Image.Image) -> Image.Image:
        left, top, width, height = draw_crop(*image.size, self.scale, self.ratio)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        if random.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image if self.augment is None else self.augment(image)


def draw_crop(
    width: int, height: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """Draws a part of an image of random area and aspect ratio (Szegedy et al., 2015, section 6).

    torchvision's `RandomResizedCrop.get_params` draws the same, but through tensors, which takes a
    twentieth of the time of a training image.

    Args:
        width, height: of the image.
        scale: least and largest area as a share of the image's.
        ratio: least and largest width over height, uniform in its logarithm.

    Returns:
        Left, top, width and height. Where ten parts did not fit into the image, the largest part
        around its centre whose aspect ratio is in the range.
    """
    for _ in range(10):
        area = width * height * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            left = random.randint(0, width - columns)
            return left, random.randint(0, height - rows), columns, rows
    columns = min(width, max(round(height * ratio[1]), 1))
    rows = min(height, max(round(width / ratio[0]), 1))
    return (width - columns) // 2, (height - rows) // 2, columns, rows
