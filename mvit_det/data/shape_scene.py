"""Draws one image of textured, overlapping shapes and outlines what is visible of each."""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

CATEGORIES = ("circle", "square", "triangle", "star", "cross")
SURFACES = ("blotches", "stripes", "dots", "gradient")

# Who owns which pixel is decided on a grid this many times finer than the image, which gives
# smooth edges in the image and outlines exact to a quarter of a pixel.
FINENESS = 4

MIN_VISIBLE_FRACTION = 0.4
SMALLEST_DIAMETER, LARGEST_DIAMETER = 0.12, 0.5  # of the image's shorter side
CROWD_MEMBER_DIAMETER = 0.075  # of the image's shorter side
CROWD_MEMBERS = (6, 10)
PLACEMENT_ATTEMPTS = 20
SMALLEST_FRAGMENT = 0.5  # square pixels; smaller visible scraps of a shape get no polygon
MIN_CONTRAST = 110.0  # Euclidean distance of the colours of shape and background in RGB


@dataclass(frozen=True)
class SceneObject:
    """One annotated thing in an image: a shape, or a crowd of small shapes of one category.

    Attributes:
        category: index into :data:`CATEGORIES`.
        is_crowd: whether this is a group whose members are not annotated one by one.
        mask: (H, W) bool, the pixels of which more than half are visible parts of the object.
        polygons: outlines of the visible parts, each (P, 2) float x, y in pixels, where (0, 0) is
            the outer corner of the top left pixel. None has a hole: parts with holes are cut up.
        area: visible area in square pixels, exact to a sixteenth of a pixel.
    """

    category: int
    is_crowd: bool
    mask: np.ndarray
    polygons: list[np.ndarray]
    area: float


def draw_scene(
    rng: np.random.Generator, height: int, width: int, max_shapes: int, crowd_fraction: float
) -> tuple[np.ndarray, list[SceneObject], str]:
    """Draws an image of 1 to ``max_shapes`` shapes, later ones in front of earlier ones.

    At least 40 % of every shape stays visible, so there is neither an annotation without anything
    to see nor a shape without an annotation. A shape that finds no such place is left out.

    Args:
        rng: the only source of randomness.
        height, width: of the image in pixels.
        max_shapes: largest number of shapes, crowds not counted; at least 1.
        crowd_fraction: probability in [0, 1] that a crowd lies behind the shapes.

    Returns:
        The image, (H, W, 3) uint8 RGB, its objects from back to front, and the surface of its
        background, one of :data:`SURFACES`.
    """
    things = []
    if rng.random() < crowd_fraction:
        things.append(_random_crowd(rng, height, width))
    for _ in range(int(rng.integers(1, max_shapes + 1))):
        things.append(_random_shape(rng, height, width))

    # 0 is the background, k + 1 the k-th placed thing.
    owner = np.zeros((height * FINENESS, width * FINENESS), np.uint16)
    placed: list[_Thing] = []
    for thing in things:
        if _place(rng, thing, owner, placed):
            placed.append(thing)
    return _paint(rng, owner, placed, height, width)


@dataclass
class _Thing:
    """A shape or a crowd before it is painted.

    ``outlines`` are (P, 2) float x, y in pixels around the thing's centre; ``radius`` bounds them.
    ``region`` is the box (rows, columns) of the fine grid that contains it once placed;
    ``full_area`` and ``visible_area`` count fine pixels inside the image.
    """

    category: int
    is_crowd: bool
    outlines: list[np.ndarray]
    radius: float
    region: tuple[slice, slice] = (slice(0), slice(0))
    full_area: int = 0
    visible_area: int = 0


def _unit_outline(category: int) -> np.ndarray:
    """Outline (P, 2) of a shape that fits into the circle of radius 1 around (0, 0)."""
    name = CATEGORIES[category]
    if name == "cross":
        arm, end = 0.33, 0.94
        corner = np.array([[end, arm], [arm, arm], [arm, end]])
        quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        turned = [corner]
        for _ in range(3):
            turned.append(turned[-1] @ quarter_turn)
        return np.concatenate(turned)
    points = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[name]
    angles = np.arange(points) * (2 * np.pi / points)
    radii = np.where(np.arange(points) % 2, 0.45, 1.0) if name == "star" else np.ones(points)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _turned_outline(rng: np.random.Generator, category: int, radius: float) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return radius * _unit_outline(category) @ rotation


def _random_shape(rng: np.random.Generator, height: int, width: int) -> _Thing:
    category = int(rng.integers(len(CATEGORIES)))
    side = min(height, width)
    radius = side * rng.uniform(SMALLEST_DIAMETER, LARGEST_DIAMETER) / 2
    return _Thing(category, False, [_turned_outline(rng, category, radius)], radius)


def _random_crowd(rng: np.random.Generator, height: int, width: int) -> _Thing:
    """Small shapes of one category, strewn around a centre; most of them touch no other."""
    category = int(rng.integers(len(CATEGORIES)))
    side = min(height, width)
    radius = side * CROWD_MEMBER_DIAMETER / 2
    members = int(rng.integers(CROWD_MEMBERS[0], CROWD_MEMBERS[1] + 1))
    # The golden angle spreads any number of points evenly over a disc.
    index = np.arange(members) + 0.5
    angles = index * (np.pi * (3 - 5**0.5)) + rng.uniform(0, 2 * np.pi)
    distances = 2.3 * radius * np.sqrt(index)
    centres = distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centres += rng.uniform(-0.5, 0.5, centres.shape) * radius
    outlines = [_turned_outline(rng, category, radius) + centre for centre in centres]
    return _Thing(category, True, outlines, float(distances[-1] + 2 * radius))


def _place(
    rng: np.random.Generator, thing: _Thing, owner: np.ndarray, placed: list[_Thing]
) -> bool:
    """Puts ``thing`` in front of the ``placed`` ones where it hides none of them too much.

    Writes its number to ``owner``, (H * FINENESS, W * FINENESS), and updates the areas. Returns
    False, with nothing changed, when there is no such place among a number of random ones.
    """
    fine_height, fine_width = owner.shape
    margin = 0.7 * thing.radius * FINENESS
    reach = thing.radius * FINENESS + 1
    for _ in range(PLACEMENT_ATTEMPTS):
        x = rng.uniform(min(margin, fine_width / 2), max(fine_width - margin, fine_width / 2))
        y = rng.uniform(min(margin, fine_height / 2), max(fine_height - margin, fine_height / 2))
        top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, fine_height)
        left, right = max(int(x - reach), 0), min(int(x + reach) + 1, fine_width)

        covered = np.zeros((bottom - top, right - left), np.uint8)
        for outline in thing.outlines:
            corners = np.rint(outline * FINENESS + [x - left, y - top]).astype(np.int32)
            cv2.fillPoly(covered, [corners], 1)
        inside = covered.astype(bool)
        hidden = np.bincount(owner[top:bottom, left:right][inside], minlength=len(placed) + 1)[1:]
        if any(
            other.visible_area - count < MIN_VISIBLE_FRACTION * other.full_area
            for other, count in zip(placed, hidden, strict=True)
        ):
            continue

        owner[top:bottom, left:right][inside] = len(placed) + 1
        for other, count in zip(placed, hidden, strict=True):
            other.visible_area -= int(count)
        thing.full_area = thing.visible_area = int(inside.sum())
        thing.region = _grown_to_whole_pixels(top, bottom, left, right)
        return True
    return False


def _grown_to_whole_pixels(top: int, bottom: int, left: int, right: int) -> tuple[slice, slice]:
    """Rows and columns of the fine grid, grown to the borders of the image's pixels."""

    def grown(start: int, stop: int) -> slice:
        return slice(start // FINENESS * FINENESS, -(-stop // FINENESS) * FINENESS)

    return grown(top, bottom), grown(left, right)


def _paint(
    rng: np.random.Generator, owner: np.ndarray, things: list[_Thing], height: int, width: int
) -> tuple[np.ndarray, list[SceneObject], str]:
    """Turns the map of owners into an image, (H, W, 3) uint8 RGB, its annotated objects and the
    surface of its background."""
    side = min(height, width)
    background_colour = _random_colour(rng, saturation=(0.05, 0.35), value=(0.25, 0.85))
    background, surface = _texture(rng, height, width, side, background_colour)
    image = background.copy()
    objects = []
    for number, thing in enumerate(things, start=1):
        rows, columns = thing.region
        visible = (owner[rows, columns] == number).astype(np.uint8)
        top, left = rows.start // FINENESS, columns.start // FINENESS
        region_height, region_width = visible.shape[0] // FINENESS, visible.shape[1] // FINENESS
        coverage = cv2.resize(
            visible.astype(np.float32), (region_width, region_height), interpolation=cv2.INTER_AREA
        )

        colour = _contrasting_colour(rng, background_colour)
        texture, _ = _texture(rng, region_height, region_width, side, colour)
        crop = np.s_[top : top + region_height, left : left + region_width]
        image[crop] += coverage[..., None] * (texture - background[crop])

        mask = np.zeros((height, width), bool)
        mask[crop] = coverage > 0.5
        corner = np.array([columns.start, rows.start])
        polygons = [(outline + corner) / FINENESS for outline in _outlines(visible)]
        if polygons:
            area = thing.visible_area / FINENESS**2
            objects.append(SceneObject(thing.category, thing.is_crowd, mask, polygons, area))

    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * 5
    return np.clip(image + grain, 0, 255).astype(np.uint8), objects, surface


def _outlines(visible: np.ndarray) -> list[np.ndarray]:
    """Polygons, (P, 2) float x, y on the fine grid, around the parts of ``visible`` (uint8 0 or 1).

    COCO's polygons cannot have holes, so a mask with a hole is cut in two through the hole.
    """
    # OpenCV's contours run through the centres of border pixels. One row and column more at the
    # end moves them to the borders between pixels.
    padded = cv2.copyMakeBorder(visible, 1, 2, 1, 2, cv2.BORDER_CONSTANT)
    padded = cv2.dilate(padded, np.ones((2, 2), np.uint8), anchor=(1, 1))
    contours, hierarchy = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return []
    parents = hierarchy.reshape(-1, 4)[:, 3]
    for contour, parent in zip(contours, parents, strict=True):
        if parent >= 0 and cv2.contourArea(contour) > FINENESS**2:
            x, _, hole_width, _ = cv2.boundingRect(contour)
            cut = x + hole_width // 2 - 1
            left, right = visible[:, :cut], visible[:, cut:]
            return _outlines(left) + [part + np.array([cut, 0]) for part in _outlines(right)]
    polygons = []
    for contour, parent in zip(contours, parents, strict=True):
        if parent < 0 and cv2.contourArea(contour) >= SMALLEST_FRAGMENT * FINENESS**2:
            outline = cv2.approxPolyDP(contour, epsilon=1.0, closed=True).reshape(-1, 2)
            if len(outline) >= 3:
                polygons.append(outline.astype(np.float64) - 1)
    return polygons


def _random_colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """A colour, (3,) float32 RGB in [0, 255], of any hue, saturation and value in these ranges."""
    hsv = (rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255


def _contrasting_colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    while True:
        colour = _random_colour(rng, saturation=(0.55, 0.95), value=(0.5, 1.0))
        if np.linalg.norm(colour - background) >= MIN_CONTRAST:
            return colour


def _texture(
    rng: np.random.Generator, height: int, width: int, side: int, colour: np.ndarray
) -> tuple[np.ndarray, str]:
    """A surface around ``colour``, (H, W, 3) float32 RGB, and which of :data:`SURFACES` it is.

    ``side`` is the image's shorter side: the pattern grows with the image.
    """
    kind = str(rng.choice(SURFACES))
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    across = np.float32(np.cos(angle)) * y - np.float32(np.sin(angle)) * x
    wave_number = np.float32(2 * np.pi / (side * rng.uniform(0.05, 0.1)))
    if kind == "blotches":
        cells = (2 + height * 10 // side, 2 + width * 10 // side)
        coarse = rng.uniform(-1.4, 1.4, cells).astype(np.float32)
        pattern = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    elif kind == "stripes":
        pattern = np.clip(2 * np.sin(wave_number * along), -1, 1)
    elif kind == "dots":
        dots = np.sin(wave_number * along) * np.sin(wave_number * across)
        pattern = np.clip(3 * dots - 1, -1, 1)
    else:
        pattern = 2 * (along - along.min()) / max(float(np.ptp(along)), 1.0) - 1
    strength = rng.uniform(0.12, 0.3)
    return colour * (1 + np.float32(strength) * pattern[..., None]), kind
