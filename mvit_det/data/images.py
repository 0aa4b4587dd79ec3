"""Images from files, as the model takes them."""

import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import ImageError

# Of all that Pillow reads, the formats of images; others, such as EPS, run programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")

_HEAD_SIZE = 64  # bytes that tell what a file is
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_MEND = "get it anew or leave it out"
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | os.PathLike[str], image_format: str = "RGB") -> np.ndarray:
    """Reads an image upright, whatever its file is called.

    The orientation in its EXIF data is applied. For images of 8 bits the result is that of
    Detectron2's `read_image`: grey values and palettes become colours, CMYK is converted without
    a colour profile, transparency is dropped, and of several frames the first one is read. It
    differs for TIFF files with an orientation, which Detectron2 applies twice. Grey values of 16
    bits, which Detectron2 clips, are scaled to 8.

    Args:
        path: of the file.
        image_format: order of the colours, "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8, in [0, 255].

    Raises:
        ImageError: the file is missing, empty, cut short, damaged or no image, holds values
            without a known range (floating point, 32 bits), or more than 179 million pixels.
        ValueError: `image_format` is neither "RGB" nor "BGR".
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format is '{image_format}'; it must be 'RGB' or 'BGR'")
    with open_image(path) as image:
        _load(image, path)
        try:
            upright = _to_rgb(image, path)
        except ValueError as error:
            raise ImageError(
                f"the image '{path}' has pixels of the kind '{image.mode}', which cannot be "
                "turned into RGB; save it as PNG or JPEG of 8 bits"
            ) from error
        method = _TRANSPOSES.get(_orientation(image))
        if method is not None:
            upright = upright.transpose(method)
    pixels = np.array(upright)
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a label map: an image whose grey values, or indexes into a palette, are classes.

    Returns:
        (H, W) of integers.

    Raises:
        ImageError: as `read_image`, or the pixels are colours.
    """
    with open_image(path) as image:
        _load(image, path)
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise ImageError(
                f"the label map '{path}' has pixels of the kind '{image.mode}'; save it as PNG "
                "with one integer per pixel"
            )
        return np.array(image)


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width in pixels that `read_image` gives, from the beginning of a file alone.

    Raises:
        ImageError: the file is missing, empty or no image, or holds more than 179 million pixels.
            Damage further on goes unnoticed.
    """
    with open_image(path) as image:
        width, height = image.size
        # Orientations from 5 on turn by a quarter. Pillow itself turns a TIFF.
        turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Opens a file and reads its header; pixels are decoded when they are used.

    Raises:
        ImageError: as `read_image_size`.
    """
    path = Path(path)
    Image.init()
    try:
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except FileNotFoundError as error:
        raise ImageError(
            f"there is no image '{path}'; check its name and the folder of images"
        ) from error
    except IsADirectoryError as error:
        raise ImageError(f"'{path}' is a folder and not an image; name a file") from error
    except Image.DecompressionBombError as error:
        millions = round(2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6)
        raise ImageError(
            f"the image '{path}' has more than {millions} million pixels, too many to read "
            "safely; scale it down or leave it out"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(_what_instead(path)) from error
    # Headers can be damaged in any way, too.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(
                f"the image '{path}' cannot be read ({error.strerror}); make it readable or "
                "leave it out"
            ) from error
        raise _damaged(path, error) from error


def _load(image: Image.Image, path: str | os.PathLike[str]) -> None:
    try:
        image.load()
    # Whatever a damaged file makes of its decoder: there is no list of what it may raise.
    except Exception as error:
        raise _damaged(path, error) from error


def _what_instead(path: Path) -> str:
    """What a file is that is no image."""
    with open(path, "rb") as file:
        head = file.read(_HEAD_SIZE)
    if not head:
        return f"the image '{path}' is empty; {_MEND}"
    if head.startswith(_SIGNATURES):
        return f"the image '{path}' is cut short or damaged; {_MEND}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return f"'{path}' is a web page or a drawing and not an image; {_MEND}"
    if head.startswith(b"version https://git-lfs"):
        return (
            f"'{path}' only points to an image kept by Git LFS; get the image with 'git lfs pull'"
        )
    return f"'{path}' is no image of a known format; convert it to PNG or JPEG or leave it out"


def _damaged(path: str | os.PathLike[str], error: Exception) -> ImageError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ImageError(f"the image '{path}' is cut short or damaged ({reason}); {_MEND}")


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 to 8, of how the image lies; 1 is upright."""
    try:
        # That of the base class does not decode a PNG in search of EXIF data behind the pixels.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    # EXIF data can be damaged in any way, and an image without them is upright.
    except Exception:
        return 1


def _to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    """The image with 8 bits in each of three colours."""
    if image.mode == "F":
        raise ImageError(
            f"the image '{path}' has floating-point pixels, whose range is not known; save it "
            "as PNG or JPEG of 8 bits"
        )
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"the image '{path}' has pixels of 32 bits, from {values.min()} to "
                f"{values.max()}, whose range is not known; save it as PNG or JPEG of 8 bits"
            )
        # 65535 / 257 is 255.
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    return image.convert("RGB")
