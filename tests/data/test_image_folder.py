"""Classification datasets: class folders, and what a mapper makes of their images."""

import os
import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from mvit_det.data.classification_mapper import ClassificationMapper, draw_crop
from mvit_det.data.image_folder import (
    IMAGENET_SPLITS,
    ImageFolder,
    load_image_folder,
    register_image_folder,
    register_imagenet,
)
from mvit_det.data.rand_augment import RandAugment
from mvit_det.errors import DatasetError, ImageError


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("b/2.png", "b/1.JPG", "a/nested/9.png", "ä ö/x.png", "a/notes.txt"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.fromarray(generator.integers(0, 256, (30, 50, 3), np.uint8)).save(path)
    (tmp_path / "set" / "empty").mkdir()
    (tmp_path / "set" / "README.md").write_text("no class")
    return tmp_path / "set"


def test_records_are_sorted_by_class_and_path(folder):
    dataset = ImageFolder(folder)
    assert dataset.class_names == ["a", "b", "empty", "ä ö"]
    names = [os.path.relpath(record["file_name"], folder) for record in dataset]
    assert names == ["a/nested/9.png", "b/1.JPG", "b/2.png", "ä ö/x.png"]
    assert [record["label"] for record in dataset] == [0, 1, 1, 3]
    assert [record["image_id"] for record in dataset] == [0, 1, 2, 3]
    assert dataset[-1] == dataset[3]
    with pytest.raises(IndexError):
        dataset[4]


def test_a_registered_folder_is_found_by_name(folder):
    name, names = register_image_folder(folder)
    assert register_image_folder(folder) == (name, names)
    assert len(load_image_folder(name)) == 4
    assert MetadataCatalog.get(name).thing_classes == ["a", "b", "empty", "ä ö"]
    with pytest.raises(DatasetError, match=r"missing \['c'\], unknown \['a', 'empty', 'ä ö'\]"):
        register_image_folder(folder, ["b", "c"])


@pytest.mark.parametrize("content", [None, "", "class/readme.txt"])
def test_folders_without_images_are_refused(content, tmp_path):
    root = tmp_path / "set"
    if content is not None:
        root.mkdir()
    if content:
        (root / content).parent.mkdir()
        (root / content).write_text("")
    with pytest.raises(DatasetError, match=str(root)):
        ImageFolder(root)


def test_hidden_files_and_folders_are_ignored(folder):
    known = [record["file_name"] for record in ImageFolder(folder)]
    for name in (
        ".ipynb_checkpoints/1.png",
        "__MACOSX/1.png",
        "b/.ipynb_checkpoints/1.png",
        "b/._1.png",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / "b/2.png").read_bytes())
    dataset = ImageFolder(folder)
    assert dataset.class_names == ["a", "b", "empty", "ä ö"]
    assert [record["file_name"] for record in dataset] == known


def test_classes_without_images_are_named(folder, caplog):
    ImageFolder(folder)
    assert "classes without files: empty" in caplog.text


def test_links_in_a_circle_are_refused(folder):
    (folder / "b" / "loop").symlink_to(folder, target_is_directory=True)
    with pytest.raises(DatasetError, match="b/loop"):
        ImageFolder(folder)


def test_imagenet_is_found_below_detectron2s_folder(folder, monkeypatch):
    root = folder.parent / "imagenet"
    root.mkdir()
    folder.rename(root / "val")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder.parent))

    def forget():
        for name in IMAGENET_SPLITS:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)

    forget()
    register_imagenet()
    try:
        assert load_image_folder("imagenet_val") is load_image_folder("imagenet_val")
        assert len(load_image_folder("imagenet_val")) == 4
        assert MetadataCatalog.get("imagenet_val").thing_classes == ["a", "b", "empty", "ä ö"]
        with pytest.raises(DatasetError, match="imagenet/train"):
            load_image_folder("imagenet_train")
    finally:
        monkeypatch.undo()
        forget()
        register_imagenet()
    with pytest.raises(DatasetError, match="there is no dataset 'unknown'"):
        load_image_folder("unknown")


def test_a_mapped_record_keeps_its_label_and_gets_pixels(folder):
    record = ImageFolder(folder)[1]
    mapped = ClassificationMapper(is_train=False, image_size=16)(record)
    assert mapped["image"].shape == (3, 16, 16)
    assert mapped["image"].dtype == torch.uint8
    assert (mapped["height"], mapped["width"], mapped["label"]) == (30, 50, 1)
    assert "image" not in record
    (folder / "b" / "1.JPG").write_bytes(b"")
    with pytest.raises(ImageError, match=r"1\.JPG"):
        ClassificationMapper(is_train=True)(record)


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (20, 30), (224, 224)])
def test_evaluation_crops_as_timm_does(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = transforms.Compose(
        create_transform(224, interpolation="bicubic", crop_pct=0.875).transforms[:2]
    )(image)
    found = ClassificationMapper(is_train=False).transform(image)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    full = ClassificationMapper(is_train=False, image_size=48, crop="full").transform(image)
    np.testing.assert_array_equal(
        np.asarray(full), np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC))
    )


def test_training_crops_depend_on_the_seed_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    image = Image.fromarray(pixels)
    mapper = ClassificationMapper(is_train=True, image_size=32, augment=RandAugment())
    results = []
    for seed in (1, 1, 2):
        random.seed(seed)
        results.append(np.asarray(mapper.transform(image)))
    assert results[0].shape == (32, 32, 3)
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (40, 400)])
def test_training_crops_are_drawn_as_torchvision_does(size):
    scale, ratio = (0.08, 1.0), (3 / 4, 4 / 3)
    random.seed(0)
    torch.manual_seed(0)
    image = torch.empty(3, *size[::-1])
    ours = np.array([draw_crop(*size, scale, ratio) for _ in range(2000)], float)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(2000)], float
    )[:, [1, 0, 3, 2]]
    for column, side in zip(range(4), (*size, *size)):
        for share in (0.1, 0.5, 0.9):
            found, expected = (np.quantile(draws[:, column], share) for draws in (ours, theirs))
            assert found == pytest.approx(expected, abs=0.05 * side)
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()


@pytest.mark.parametrize("size", [(400, 4), (4, 400), (1, 1)])
def test_crops_of_very_narrow_images_are_torchvisions(size):
    """Nothing is drawn where no part of the least area has an aspect ratio in the range."""
    image = torch.empty(3, *size[::-1])
    top, left, height, width = transforms.RandomResizedCrop.get_params(
        image, (0.9, 1.0), (3 / 4, 4 / 3)
    )
    assert draw_crop(*size, (0.9, 1.0), (3 / 4, 4 / 3)) == (left, top, width, height)


def test_flips_are_as_frequent_as_specified():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    image = Image.fromarray(pixels)
    mapper = ClassificationMapper(
        is_train=True, image_size=8, scale=(1, 1), ratio=(1, 1), flip=0.25
    )
    random.seed(0)
    flipped = sum(np.asarray(mapper.transform(image))[0, 0, 0] == 255 for _ in range(400))
    assert flipped == pytest.approx(100, abs=25)


@pytest.mark.parametrize(
    "changes", [{"image_size": 0}, {"crop": "half"}, {"crop_ratio": 0}, {"flip": 2}]
)
def test_arguments_out_of_range_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        ClassificationMapper(is_train=True, **changes)
