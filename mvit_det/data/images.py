"""Image files as arrays, upright and in the channel order of the model."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ..errors import ImageError, MViTDetError
from .urls import is_url, read_url

# Image formats alone: other formats that Pillow reads, such as EPS, run programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
# File extensions that are taken for images where folders are searched.
IMAGE_EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)  # fmt: skip

_HEAD_SIZE = 64  # bytes that identify a file
_HEADER_SIZE = 2**16  # bytes that usually hold the size of an image and its orientation
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_REMEDY = "download it again or remove it"
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
    """Reads an image upright; the file extension does not matter.

    The orientation in its EXIF data is applied. For images of 8 bits the result is that of
    Detectron2's `read_image`: grey values and palettes become colours, CMYK is converted without
    a colour profile, transparency is dropped, and of several frames the first one is read. It
    differs for TIFF files with an orientation, which Detectron2 applies twice. Grey values of 16
    bits, which Detectron2 clips, are scaled to 8.

    Args:
        path: of the file, or a URL that fsspec can read, such as "s3://bucket/photo.jpg".
        image_format: channel order, "RGB" or "BGR".

    Returns:
        (H, W, 3) uint8, in [0, 255].

    Raises:
        ImageError: the file is missing, empty, truncated, corrupt or not an image, holds values
            without a known range (floating point, 32 bits), or more than 179 million pixels.
        StorageError: the server of a URL fails.
        ValueError: `image_format` is neither "RGB" nor "BGR".
    """
    if image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format is '{image_format}'; it must be 'RGB' or 'BGR'")
    pixels = np.array(read_rgb(path))
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def read_rgb(path: str | os.PathLike[str]) -> Image.Image:
    """Reads an image as `read_image` does, into an RGB image of Pillow.

    Raises:
        ImageError: as `read_image`.
    """
    with open_image(path) as image:
        _load(image, path)
        try:
            upright = _to_rgb(image, path)
        except ValueError as error:
            raise ImageError(
                f"the image '{path}' has pixels of mode '{image.mode}', which cannot be "
                "converted to RGB; save it as PNG or JPEG of 8 bits"
            ) from error
        method = _TRANSPOSES.get(_orientation(image))
        if method is not None:
            upright = upright.transpose(method)
    return upright


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a label map: an image whose grey values or palette indexes are classes.

    Returns:
        (H, W) of integers.

    Raises:
        ImageError: as `read_image`, or the pixels are colours.
    """
    with open_image(path) as image:
        _load(image, path)
        if image.mode not in ("L", "P") and not image.mode.startswith("I"):
            raise ImageError(
                f"the label map '{path}' has pixels of mode '{image.mode}'; save it as PNG "
                "with one integer per pixel"
            )
        return np.array(image)


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Returns the height and width of `read_image`'s result, from the file header alone.

    Raises:
        ImageError: the file is missing, empty or not an image, or holds more than 179 million
            pixels. Corrupt pixels go unnoticed.
        StorageError: the server of a URL fails.
    """
    if is_url(path):
        try:
            return _upright_size(open_image(path, _HEADER_SIZE))
        except ImageError:
            # Some formats have what is needed at the end.
            pass
    return _upright_size(open_image(path))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    with image:
        width, height = image.size
        # Orientations from 5 on turn by a quarter. Pillow itself turns a TIFF.
        turned = image.format != "TIFF" and _orientation(image) >= 5
    return (width, height) if turned else (height, width)


def open_image(path: str | os.PathLike[str], size: int | None = None) -> Image.Image:
    """Opens a file and reads its header; pixels are decoded when they are used.

    Args:
        path: of the file; a URL is read at once.
        size: number of bytes to read of a URL; default: all.

    Raises:
        ImageError: as `read_image_size`.
        StorageError: the server of a URL fails.
    """
    source: Path | io.BytesIO | None = None
    Image.init()
    try:
        source = io.BytesIO(read_url(str(path), size)) if is_url(path) else Path(path)
        if isinstance(source, Path) and source.is_fifo():
            raise ImageError(f"'{path}' is a pipe, from which no image is read; save it as a file")
        return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])
    except MViTDetError:
        raise
    except FileNotFoundError as error:
        raise ImageError(
            f"there is no image '{path}'; check its name and the folder of images"
        ) from error
    except IsADirectoryError as error:
        raise ImageError(f"'{path}' is a folder, not an image; name a file") from error
    except Image.DecompressionBombError as error:
        millions = round(2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6)
        raise ImageError(
            f"the image '{path}' has more than {millions} million pixels, too many to read "
            "safely; scale it down or remove it"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(_not_an_image(path, source)) from error
    # So can a corrupt header.
    except Exception as error:
        if "\0" in str(path):
            raise ImageError(
                f"{str(path)!r} is not the path of an image: it holds a NUL"
            ) from error
        if isinstance(error, OSError) and error.strerror:
            raise ImageError(
                f"the image '{path}' cannot be read ({error.strerror}); make it readable or "
                "remove it"
            ) from error
        raise _corrupt(path, error) from error


def _load(image: Image.Image, path: str | os.PathLike[str]) -> None:
    try:
        image.load()
    # A corrupt file can make its decoder raise anything.
    except Exception as error:
        raise _corrupt(path, error) from error


def _not_an_image(path: str | os.PathLike[str], source: Path | io.BytesIO | None) -> str:
    """Says what a file is that is not an image."""
    if isinstance(source, io.BytesIO):
        head = source.getvalue()[:_HEAD_SIZE]
    else:
        with open(path, "rb") as file:
            head = file.read(_HEAD_SIZE)
    if not head:
        return f"the image '{path}' is empty; {_REMEDY}"
    if head.startswith(_SIGNATURES):
        return f"the image '{path}' is truncated or corrupt; {_REMEDY}"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return f"'{path}' is a web page or a drawing, not an image; {_REMEDY}"
    if head.startswith(b"version https://git-lfs"):
        return (
            f"'{path}' only points to an image kept by Git LFS; get the image with 'git lfs pull'"
        )
    return f"'{path}' is not an image of a known format; convert it to PNG or JPEG or remove it"


def _corrupt(path: str | os.PathLike[str], error: Exception) -> ImageError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ImageError(f"the image '{path}' is truncated or corrupt ({reason}); {_REMEDY}")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 is upright."""
    try:
        # The base class's method does not decode a PNG to look for EXIF data behind the pixels.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    # Corrupt EXIF data can raise anything, and an image without EXIF data is upright.
    except Exception:
        return 1


def _to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    """The image with three channels of 8 bits."""
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
