"""Draws one image of textured, overlapping shapes and outlines the visible region of each."""

import colorsys
from dataclasses import dataclass, field

import cv2
import numpy as np

CATEGORIES = ("circle", "square", "triangle", "star", "cross")
SURFACES = ("blotches", "stripes", "dots", "gradient")
MIN_VISIBLE_FRACTION = 0.4

# Ownership of pixels is decided on a grid this many times finer than the image, which gives smooth
# edges in the image and outlines exact to a quarter of a pixel.
FINENESS = 4
_DIAMETERS = 0.12, 0.5  # of shapes, in shorter sides of the image
_CROWD_MEMBER_DIAMETER, _CROWD_MEMBERS = 0.075, (6, 10)
_PLACEMENT_ATTEMPTS = 20
_MIN_FRAGMENT = 0.5  # square pixels; smaller visible fragments of a shape get no polygon
MIN_CONTRAST = 110.0  # Euclidean distance of a shape's colour to the background's in RGB


@dataclass
class SceneObject:
    """A shape, or a crowd of small shapes of one category.

    Attributes:
        category: index into `CATEGORIES`.
        is_crowd: whether this is a group whose members are not annotated one by one.
        outlines: of the whole shapes, each (P, 2) float x, y in pixels around the centre.
        radius: bounds the outlines, in pixels.
        region: rows and columns of the fine grid that contain the object.
        full_area, visible_area: in fine pixels inside the image.
        mask: (H, W) bool, the pixels of which more than half are visible regions of the object.
        polygons: outlines of the visible regions, each (P, 2) float x, y in pixels, where (0, 0)
            is the outer corner of the top left pixel. Regions with holes are split.
    """

    category: int
    is_crowd: bool
    outlines: list[np.ndarray]
    radius: float
    region: tuple[slice, slice] = (slice(0), slice(0))
    full_area: int = 0
    visible_area: int = 0
    mask: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    polygons: list[np.ndarray] = field(default_factory=list)

    @property
    def area(self) -> float:
        """Visible area in square pixels, exact to a sixteenth of a pixel."""
        return self.visible_area / FINENESS**2


def draw_scene(
    rng: np.random.Generator, height: int, width: int, max_shapes: int, crowd_fraction: float
) -> tuple[np.ndarray, list[SceneObject], str]:
    """Draws an image of 1 to `max_shapes` shapes, later ones in front of earlier ones.

    At least 40 % of every shape stays visible, so nothing invisible is annotated and every shape
    has an annotation. A shape that finds no such place is dropped.

    Args:
        rng: the only source of randomness.
        height, width: of the image in pixels.
        max_shapes: largest number of shapes, crowds not counted; at least 1.
        crowd_fraction: probability in [0, 1] that a crowd lies behind the shapes.

    Returns:
        The image, (H, W, 3) uint8 RGB, its objects from back to front, and the surface of its
        background, one of `SURFACES`.
    """
    side = min(height, width)
    things = [_crowd(rng, side)] if rng.random() < crowd_fraction else []
    things += [_shape(rng, side) for _ in range(int(rng.integers(1, max_shapes + 1)))]
    # 0 is the background, k + 1 the k-th placed object.
    owner = np.zeros((height * FINENESS, width * FINENESS), np.uint16)
    placed: list[SceneObject] = []
    for thing in things:
        if _place(rng, thing, owner, placed):
            placed.append(thing)

    background_colour = draw_colour(rng, saturation=(0.05, 0.35), value=(0.25, 0.85))
    background, surface = draw_texture(rng, height, width, side, background_colour)
    image = background.copy()
    for number, thing in enumerate(placed, start=1):
        visible = (owner[thing.region] == number).astype(np.uint8)
        shape = visible.shape[0] // FINENESS, visible.shape[1] // FINENESS
        coverage = cv2.resize(visible.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
        colour = background_colour
        while np.linalg.norm(colour - background_colour) < MIN_CONTRAST:
            colour = draw_colour(rng, saturation=(0.55, 0.95), value=(0.5, 1.0))
        texture, _ = draw_texture(rng, *shape, side, colour)
        corner = np.array([span.start for span in thing.region[::-1]])
        left, top = corner // FINENESS
        crop = np.s_[top : top + shape[0], left : left + shape[1]]
        image[crop] += coverage[..., None] * (texture - background[crop])
        thing.mask = np.zeros((height, width), bool)
        thing.mask[crop] = coverage > 0.5
        thing.polygons = [(outline + corner) / FINENESS for outline in _outlines(visible)]

    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * 5
    pixels = np.clip(image + grain, 0, 255).astype(np.uint8)
    return pixels, [thing for thing in placed if thing.polygons], surface


def _shape(rng: np.random.Generator, side: int) -> SceneObject:
    category = int(rng.integers(len(CATEGORIES)))
    radius = side * rng.uniform(*_DIAMETERS) / 2
    return SceneObject(category, False, [shape_outline(rng, category, radius)], radius)


def _crowd(rng: np.random.Generator, side: int) -> SceneObject:
    """Small shapes of one category, scattered around a centre; most of them touch no other."""
    category = int(rng.integers(len(CATEGORIES)))
    radius = side * _CROWD_MEMBER_DIAMETER / 2
    members = int(rng.integers(_CROWD_MEMBERS[0], _CROWD_MEMBERS[1] + 1))
    # The golden angle spreads any number of points evenly over a disc.
    index = np.arange(members) + 0.5
    angles = index * (np.pi * (3 - 5**0.5)) + rng.uniform(0, 2 * np.pi)
    distances = 2.3 * radius * np.sqrt(index)
    centres = distances[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centres += rng.uniform(-0.5, 0.5, centres.shape) * radius
    outlines = [shape_outline(rng, category, radius) + centre for centre in centres]
    return SceneObject(category, True, outlines, float(distances[-1] + 2 * radius))


def shape_outline(rng: np.random.Generator, category: int, radius: float) -> np.ndarray:
    """(P, 2) corners of a randomly rotated shape that fits into a circle around (0, 0)."""
    name = CATEGORIES[category]
    if name == "cross":
        arm, end = 0.33, 0.94
        corner = np.array([[end, arm], [arm, arm], [arm, end]])
        quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        turned = [corner]
        for _ in range(3):
            turned.append(turned[-1] @ quarter_turn)
        unit = np.concatenate(turned)
    else:
        points = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[name]
        angles = np.arange(points) * (2 * np.pi / points)
        radii = np.where(np.arange(points) % 2, 0.45, 1.0) if name == "star" else np.ones(points)
        unit = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return radius * unit @ rotation


def _place(
    rng: np.random.Generator, thing: SceneObject, owner: np.ndarray, placed: list[SceneObject]
) -> bool:
    """Puts an object in front of those that are placed, where it hides none of them too much.

    Writes its number to `owner`, (H * FINENESS, W * FINENESS), and updates the areas. Returns
    False, with nothing changed, if a number of random places are all unsuitable.
    """
    size = np.array(owner.shape[::-1])
    margin = np.minimum(0.7 * thing.radius * FINENESS, size / 2)
    reach = thing.radius * FINENESS + 1
    for _ in range(_PLACEMENT_ATTEMPTS):
        centre = rng.uniform(margin, np.maximum(size - margin, size / 2))
        low = np.maximum((centre - reach).astype(int), 0)
        high = np.minimum((centre + reach).astype(int) + 1, size)
        covered = np.zeros((high - low)[::-1], np.uint8)
        for outline in thing.outlines:
            corners = np.rint(outline * FINENESS + centre - low).astype(np.int32)
            cv2.fillPoly(covered, [corners], 1)
        inside = covered.astype(bool)
        region = owner[low[1] : high[1], low[0] : high[0]]
        hidden = np.bincount(region[inside], minlength=len(placed) + 1)[1:]
        left = [other.visible_area - int(count) for other, count in zip(placed, hidden)]
        if any(area < MIN_VISIBLE_FRACTION * other.full_area for other, area in zip(placed, left)):
            continue
        region[inside] = len(placed) + 1
        for other, area in zip(placed, left):
            other.visible_area = area
        thing.full_area = thing.visible_area = int(inside.sum())
        # Grown to the borders of the image's pixels.
        low, high = low // FINENESS * FINENESS, -(-high // FINENESS) * FINENESS
        thing.region = slice(low[1], high[1]), slice(low[0], high[0])
        return True
    return False


def _outlines(visible: np.ndarray) -> list[np.ndarray]:
    """Polygons, (P, 2) float x, y on the fine grid, around the regions of `visible` (uint8 0 or 1).

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
    outlines = [
        cv2.approxPolyDP(contour, epsilon=1.0, closed=True).reshape(-1, 2)
        for contour, parent in zip(contours, parents, strict=True)
        if parent < 0 and cv2.contourArea(contour) >= _MIN_FRAGMENT * FINENESS**2
    ]
    return [outline.astype(np.float64) - 1 for outline in outlines if len(outline) >= 3]


def draw_colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> np.ndarray:
    """A colour, (3,) float32 RGB in [0, 255], of any hue and of these ranges."""
    hsv = (rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255


def draw_texture(
    rng: np.random.Generator, height: int, width: int, side: int, colour: np.ndarray
) -> tuple[np.ndarray, str]:
    """A surface around a colour, (H, W, 3) float32 RGB, and its name in `SURFACES`.

    The pattern grows with `side`, the image's shorter side.
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
