"""Masks as run-length encoding: the same pixels as Detectron2's bitmaps."""

import numpy as np
import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from mvit_det.detection import masks as masks_module
from mvit_det.detection.masks import RLEMasks, paste_as_rle, union


def random_masks(count=12, height=70, width=90):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(count, 7, 7, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) - 5
    boxes = torch.cat([corners, corners + 3 + 60 * torch.rand(count, 2, generator=generator)], 1)
    # The whole image, beyond it, and without area.
    boxes[0] = torch.tensor([0.0, 0, width, height])
    boxes[1] = torch.tensor([-20.0, -20, width + 20, height + 20])
    boxes[2] = torch.tensor([5.0, 5, 5, 9])
    return masks, boxes


@pytest.mark.parametrize("strip_pixels", [2**22, 300])
def test_pixels_are_those_of_bitmaps(strip_pixels, monkeypatch):
    monkeypatch.setattr(masks_module, "STRIP_PIXELS", strip_pixels)
    masks, boxes = random_masks()
    encoded = paste_as_rle(masks, boxes, 70, 90)
    expected = paste_masks_in_image(masks, boxes, (70, 90))
    assert expected[0].any()
    assert torch.equal(torch.stack(list(encoded)), expected)
    for rle, pixels in zip(encoded.encoded, expected):
        assert rle == mask_util.encode(np.asfortranarray(pixels.numpy().astype(np.uint8)))
    assert torch.equal(encoded.areas(), expected.sum(dim=(1, 2)))


def test_a_mask_that_fills_the_image():
    (rle,) = paste_as_rle(torch.ones(1, 3, 3), torch.tensor([[-5.0, -5, 20, 20]]), 10, 12).encoded
    assert rle == mask_util.encode(np.ones((10, 12), np.uint8, order="F"))


def test_a_box_outside_the_image():
    encoded = paste_as_rle(torch.ones(1, 3, 3), torch.tensor([[50.0, 50, 60, 60]]), 10, 12)
    assert encoded.areas().tolist() == [0]
    assert encoded[0].shape == (10, 12)


def test_as_a_field_of_instances():
    masks, boxes = random_masks()
    encoded = paste_as_rle(masks, boxes, 70, 90)
    instances = Instances((70, 90), pred_boxes=Boxes(boxes), pred_masks=encoded)
    for index in (torch.tensor([3, 0]), torch.arange(12) % 3 == 1, slice(2, 5)):
        part = instances[index].to("cpu").pred_masks
        assert isinstance(part, RLEMasks)
        assert part.encoded == [encoded.encoded[i] for i in np.arange(12)[index].tolist()]
    assert torch.equal(encoded[1], paste_masks_in_image(masks, boxes, (70, 90))[1])


def test_union():
    masks, boxes = random_masks()
    encoded = paste_as_rle(masks, boxes, 70, 90)
    (both,) = RLEMasks([union(encoded.encoded[:2])], 70, 90)
    assert torch.equal(both, encoded[0] | encoded[1])
