"""Images from files: what is read, what is refused is in test_bad_input.py."""

import json
import os

import numpy as np
import PIL
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import ExifTags, Image

from mvit_det.data.images import read_image, read_image_size
from mvit_det.errors import ImageError

# The corners tell how an image lies.
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
IMAGE = CORNERS.repeat(16, axis=0).repeat(24, axis=1)  # 32 rows of 48 pixels


def saved(folder, image, name="image.png", **options):
    Image.fromarray(image).save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_real_images_are_those_of_detectron2(coco_sample, image_format):
    for split in ("train2017", "val2017"):
        annotations = coco_sample / "coco" / "annotations" / f"instances_{split}.json"
        for record in json.loads(annotations.read_text())["images"][:20]:
            path = coco_sample / "coco" / split / record["file_name"]
            image = read_image(path, image_format)
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            assert image.flags.writeable
            assert image.shape == (record["height"], record["width"], 3)
            np.testing.assert_array_equal(image, detectron2_read_image(str(path), image_format))
            assert read_image_size(path) == image.shape[:2]


# The last Pillow for Python 3.10 cannot read the TIFF files in YCbCr that it writes.
YCBCR = pytest.param(
    "YCbCr",
    marks=pytest.mark.skipif(PIL.__version__ < "13", reason="needs Pillow 13 or later"),
)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", YCBCR])
def test_every_kind_of_8_bits_is_as_in_detectron2(mode, tmp_path):
    image = Image.fromarray(IMAGE)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    path = tmp_path / ("image.png" if mode in ("1", "L", "LA", "P", "RGBA") else "image.tiff")
    image.save(path)
    np.testing.assert_array_equal(read_image(path), detectron2_read_image(str(path), "RGB"))


def test_transparency_is_dropped(tmp_path):
    transparent = np.dstack([IMAGE, np.zeros(IMAGE.shape[:2], np.uint8)])
    np.testing.assert_array_equal(read_image(saved(tmp_path, transparent)), IMAGE)


def test_cmyk_keeps_its_colours(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(IMAGE).convert("CMYK").save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - IMAGE).mean() < 3


@pytest.mark.parametrize("name", ["image.png", "image.tiff"])
def test_grey_of_16_bits_is_scaled_and_not_clipped(name, tmp_path):
    grey = np.array([[0, 128, 129, 32768], [257, 514, 65407, 65535]], np.uint16)
    image = read_image(saved(tmp_path, grey, name))
    assert image[:, :, 0].tolist() == [[0, 0, 1, 128], [1, 2, 255, 255]]
    assert (image == image[:, :, :1]).all()


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.tiff", "image.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(orientation, name, tmp_path):
    lying = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),  # a quarter clockwise brings it up
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](IMAGE)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}
    if name.endswith("webp"):
        options = {"lossless": True}
    path = saved(tmp_path, np.ascontiguousarray(lying), name, exif=exif, **options)
    image = read_image(path)
    assert image.shape == IMAGE.shape
    assert read_image_size(path) == IMAGE.shape[:2]
    assert np.abs(image.astype(int) - IMAGE).mean() < 1
    if not name.endswith("tiff"):  # which Detectron2 turns twice
        np.testing.assert_array_equal(image, detectron2_read_image(str(path), "RGB"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_leave_a_image_as_it_is(tmp_path):
    path = saved(tmp_path, IMAGE, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff not a directory")
    np.testing.assert_array_equal(read_image(path), IMAGE)
    assert read_image_size(path) == IMAGE.shape[:2]


@pytest.mark.parametrize("shape", [(1, 1, 3), (4, 20000, 3), (20000, 4, 3)])
def test_extreme_shapes(shape, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = saved(tmp_path, image)
    np.testing.assert_array_equal(read_image(path), image)
    assert read_image_size(path) == shape[:2]


def test_the_name_of_a_file_does_not_matter(tmp_path):
    path = saved(tmp_path, IMAGE).rename(tmp_path / "image.jpg")
    np.testing.assert_array_equal(read_image(path), IMAGE)
    path = path.rename(tmp_path / "Bild mit Umläuten und %20")
    np.testing.assert_array_equal(read_image(path, "BGR"), IMAGE[:, :, ::-1])


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.fromarray(IMAGE), Image.fromarray(255 - IMAGE)]
    frames[0].save(tmp_path / "frames.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "frames.gif"), IMAGE)


def test_other_orders_of_colours_are_refused(tmp_path):
    with pytest.raises(ValueError, match="image_format is 'L'; it must be 'RGB' or 'BGR'"):
        read_image(saved(tmp_path, IMAGE), "L")


def test_a_pipe_is_refused(tmp_path):
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    for read in (read_image, read_image_size):
        with pytest.raises(ImageError, match="pipe.png"):
            read(tmp_path / "pipe.png")
