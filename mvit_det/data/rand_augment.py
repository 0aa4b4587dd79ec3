"""RandAugment as MViTv2's ImageNet recipe uses it (Cubuk et al., 2020; MViTv2, appendix B.2).

The recipe's policy, `rand-m9-n6-mstd0.5-inc1` in timm's notation, differs from torchvision's
RandAugment: magnitudes are drawn from a normal distribution, each of the chosen operations is
applied with probability 0.5, and all operations get stronger with the magnitude.
"""

import random
from collections.abc import Callable, Mapping

from PIL import Image, ImageEnhance, ImageOps

MAX_MAGNITUDE = 10
# An operation: the image, its strength in [0, 1], a sign, and the colour of pixels from outside.
Operation = Callable[[Image.Image, float, int, tuple[int, int, int]], Image.Image]


class RandAugment:
    """Applies random operations, each with probability `probability`.

    All randomness is drawn from Python's global generator.
    """

    def __init__(
        self,
        *,
        num_ops: int = 6,
        magnitude: float = 9.0,
        magnitude_std: float = 0.5,
        probability: float = 0.5,
        fill: tuple[int, int, int] = (124, 116, 104),
    ) -> None:
        """Builds the policy; the defaults are those of `rand-m9-n6-mstd0.5-inc1`.

        Args:
            num_ops: operations per image, drawn with replacement.
            magnitude: mean strength, in [0, 10].
            magnitude_std: standard deviation of the strength; the result is clipped to [0, 10].
            probability: of applying each operation, in [0, 1].
            fill: RGB of pixels that an operation moves in from outside, the mean of ImageNet.

        Raises:
            ValueError: an argument is out of its range.
        """
        if num_ops < 0:
            raise ValueError(f"num_ops must be at least 0, not {num_ops}")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude must be from 0 to {MAX_MAGNITUDE}, not {magnitude}")
        if magnitude_std < 0:
            raise ValueError(f"magnitude_std must be at least 0, not {magnitude_std}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, not {probability}")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.magnitude_std = magnitude_std
        self.probability = probability
        red, green, blue = fill
        self.fill = (red, green, blue)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Augments an RGB image; the size stays the same."""
        return self.draw()(image)

    def draw(self) -> Callable[[Image.Image], Image.Image]:
        """Draws operations, and returns the function that applies them to all frames of a clip."""
        drawn: list[tuple[Operation, float, int]] = []
        for operation in random.choices(list(OPERATIONS.values()), k=self.num_ops):
            if random.random() >= self.probability:
                continue
            magnitude = random.gauss(self.magnitude, self.magnitude_std)
            strength = min(max(magnitude, 0), MAX_MAGNITUDE) / MAX_MAGNITUDE
            drawn.append((operation, strength, random.choice((-1, 1))))

        def apply(image: Image.Image) -> Image.Image:
            for operation, strength, sign in drawn:
                image = operation(image, strength, sign, self.fill)
            return image

        return apply


def _affine(
    image: Image.Image, matrix: tuple[float, ...], fill: tuple[int, int, int]
) -> Image.Image:
    """Each output pixel (x, y) comes from (a·x + b·y + c, d·x + e·y + f) of the input."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill
    )


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    """Moves a property away from that of the image, factor 1, towards 0.1 or 1.9."""
    return lambda image, strength, sign, fill: enhancer(image).enhance(
        max(0.1, 1 + sign * 0.9 * strength)
    )


def _solarize_add(image: Image.Image, strength: float) -> Image.Image:
    """Brightens the dark half of the values by up to 110."""
    added = int(110 * strength)
    values = [min(value + added, 255) if value < 128 else value for value in range(256)]
    return image.point(values * 3)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    """Keeps the four most significant bits, or fewer; full strength keeps none."""
    bits = 4 - int(4 * strength)
    # Recent versions of Pillow refuse 0 bits in their own function.
    mask = 256 - 2 ** (8 - bits)
    return image.point([value & mask for value in range(256)] * 3)


OPERATIONS: Mapping[str, Operation] = {
    "auto_contrast": lambda image, strength, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, strength, sign, fill: ImageOps.invert(image),
    "rotate": lambda image, strength, sign, fill: image.rotate(
        sign * 30 * strength, Image.Resampling.BICUBIC, fillcolor=fill
    ),
    "posterize": lambda image, strength, sign, fill: _posterize(image, strength),
    "solarize": lambda image, strength, sign, fill: ImageOps.solarize(
        image, 256 - int(256 * strength)
    ),
    "solarize_add": lambda image, strength, sign, fill: _solarize_add(image, strength),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, strength, sign, fill: _affine(
        image, (1, sign * 0.3 * strength, 0, 0, 1, 0), fill
    ),
    "shear_y": lambda image, strength, sign, fill: _affine(
        image, (1, 0, 0, sign * 0.3 * strength, 1, 0), fill
    ),
    "translate_x": lambda image, strength, sign, fill: _affine(
        image, (1, 0, sign * 0.45 * strength * image.width, 0, 1, 0), fill
    ),
    "translate_y": lambda image, strength, sign, fill: _affine(
        image, (1, 0, 0, 0, 1, sign * 0.45 * strength * image.height), fill
    ),
}
