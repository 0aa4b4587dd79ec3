"""RandAugment: each operation equals timm's at every magnitude."""

import random

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from mvit_det.data.rand_augment import OPERATIONS, RandAugment

FILL = (124, 116, 104)
TIMM_NAMES = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 200, (12, 10, 3), np.uint8)
    return Image.fromarray(pixels).resize((50, 40), Image.Resampling.BILINEAR)


def timm_operation(name, magnitude):
    options = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    return auto_augment.AugmentOp(TIMM_NAMES[name], 1.0, magnitude, options)


def test_the_operations_are_timms():
    transform = auto_augment.rand_augment_transform("rand-m9-n6-mstd0.5-inc1", {"img_mean": FILL})
    assert {operation.name for operation in transform.ops} == set(TIMM_NAMES.values())
    assert {operation.prob for operation in transform.ops} == {0.5}
    assert set(OPERATIONS) == set(TIMM_NAMES)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("magnitude", [0, 3.7, 9, 10])
def test_an_operation_equals_timms(name, magnitude, image, monkeypatch):
    if (name, magnitude) == ("posterize", 10):
        magnitude = 9.9
    for sign in (1, -1):
        # timm negates where the number drawn is above 0.5.
        monkeypatch.setattr(random, "random", lambda sign=sign: 0.9 if sign < 0 else 0.1)
        expected = np.asarray(timm_operation(name, magnitude)(image))
        found = np.asarray(OPERATIONS[name](image, magnitude / 10, sign, FILL))
        np.testing.assert_array_equal(found, expected)


def test_posterizing_at_full_strength_keeps_no_bit(image):
    # timm's raises here with current Pillow versions, which refuse 0 bits.
    assert not np.asarray(OPERATIONS["posterize"](image, 1.0, 1, FILL)).any()


def test_operations_probabilities_and_magnitudes_are_drawn_as_specified(image, monkeypatch):
    seen = []
    recorders = {
        name: lambda image, strength, sign, fill, name=name: (
            seen.append((name, strength, sign)) or image
        )
        for name in OPERATIONS
    }
    monkeypatch.setattr("mvit_det.data.rand_augment.OPERATIONS", recorders)
    random.seed(0)
    augment = RandAugment()
    for _ in range(2000):
        augment(image)
    assert len(seen) == pytest.approx(6000, rel=0.03)
    for name in OPERATIONS:
        assert sum(entry[0] == name for entry in seen) == pytest.approx(400, rel=0.2)
    strengths = np.array([strength for _, strength, _ in seen])
    assert strengths.max() == 1.0
    assert np.median(strengths) == pytest.approx(0.9, abs=0.005)
    assert np.quantile(strengths, 0.16) == pytest.approx(0.85, abs=0.01)
    assert np.mean([sign for *_, sign in seen]) == pytest.approx(0, abs=0.05)


def test_the_same_seed_gives_the_same_image(image):
    augment = RandAugment()
    results = []
    for seed in (1, 1, 2):
        random.seed(seed)
        results.append(np.asarray(augment(image)))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    "changes",
    [{"num_ops": -1}, {"magnitude": 11}, {"magnitude_std": -0.1}, {"probability": 1.5}],
)
def test_arguments_out_of_range_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        RandAugment(**changes)
