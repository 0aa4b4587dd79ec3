import pytest
import torch

from mvit_det.modeling import MViTv2
from mvit_det.modeling.padding import (
    fill_padding,
    key_masks,
    pad_to,
    pooled_sizes,
    unpadded_sizes,
)
from mvit_det.modeling.window import window_partition

PICO = dict(depths=(1, 2, 3, 2), embed_dim=16, num_heads=1, rel_pos_std=0.2, mask_padding=True)
SIZES = [(64, 96), (97, 70), (33, 130)]


def make_batch(sizes, height, width):
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, *size, generator=generator) for size in sizes]
    batch = torch.zeros(len(sizes), 3, height, width)
    for padded, image in zip(batch, images):
        padded[:, : image.shape[1], : image.shape[2]] = image
    return batch, images


def test_image_sizes_are_found_from_the_zeros():
    batch, _ = make_batch(SIZES, 128, 160)
    assert unpadded_sizes(batch) == SIZES
    # Zeros inside an image, or in one channel, are no padding.
    batch[0, :, 10:20] = 0
    batch[1, 0] = 0
    assert unpadded_sizes(batch) == SIZES
    assert unpadded_sizes(torch.zeros(1, 3, 8, 8)) == [(1, 1)]


def test_pooled_sizes_round_up():
    assert pooled_sizes([(64, 97), (1, 4)], 4) == [(16, 25), (1, 1)]


def test_fill_padding_leaves_the_images():
    x = fill_padding(torch.ones(2, 3, 4, 5), [(2, 4), (3, 1)], -7)
    assert (x[0, :2, :4] == 1).all()
    assert (x[0, 2:] == -7).all()
    assert (x[1, :3, :1] == 1).all()
    assert (x[1, :, 1:] == -7).all()


def test_pad_to_fills_up_with_zeros():
    x = pad_to(torch.ones(2, 3, 4), (3, 5))
    assert x.shape == (3, 5, 4)
    assert x.sum() == 24
    assert (x[:2, :3] == 1).all()


@pytest.mark.parametrize(("grid", "window"), [((5, 7), (3, 4)), ((5, 7), (5, 7)), ((4, 4), (2, 2))])
def test_key_masks_mark_what_lies_beyond_each_image(grid, window):
    sizes = [(3, 4), (4, 2)]
    rows, columns = key_masks(sizes, grid, window, torch.float32, torch.device("cpu"))
    masked = (rows[..., :, None] + columns[..., None, :]).flatten(-2) < 0
    inside = torch.zeros(2, *grid, 1, 1)
    for image, (height, width) in zip(inside, sizes):
        image[:height, :width] = 1
    assert torch.equal(masked[:, 0, 0], window_partition(inside, window)[:, 0, :, 0] == 0)
    assert rows.isfinite().all()


@pytest.mark.parametrize("position", ["decomposed", "absolute+decomposed"])
@pytest.mark.parametrize("padded", [(97, 130), (128, 160), (200, 400)])
def test_features_are_the_same_alone_and_in_any_batch(padded, position):
    torch.manual_seed(0)
    model = MViTv2(**PICO, position=position).eval()
    batch, images = make_batch(SIZES, *padded)
    with torch.no_grad():
        features = model(batch)
        for index, image in enumerate(images):
            for name, alone in model(image[None]).items():
                height, width = alone.shape[2:]
                inside = features[name][index, :, :height, :width]
                assert (inside - alone[0]).norm() / alone.norm() <= 1e-5, name
                assert features[name][index, :, height:].count_nonzero() == 0
                assert features[name][index, :, :, width:].count_nonzero() == 0


def test_without_the_option_neighbours_do_matter():
    """Without the option features differ, so the test above could fail."""
    torch.manual_seed(0)
    model = MViTv2(**{**PICO, "mask_padding": False}).eval()
    batch, images = make_batch(SIZES, 128, 160)
    with torch.no_grad():
        alone = model(images[0][None])["scale5"][0]
        inside = model(batch)["scale5"][0, :, : alone.shape[1], : alone.shape[2]]
    assert (inside - alone).norm() / alone.norm() > 1e-3


def test_one_unpadded_image_in_whole_windows_needs_no_mask():
    torch.manual_seed(0)
    model = MViTv2(**PICO).eval()
    plain = MViTv2(**{**PICO, "mask_padding": False}).eval()
    plain.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 224, 448)
    with torch.no_grad():
        for name, expected in plain(images).items():
            torch.testing.assert_close(model(images)[name], expected)


def test_gradients_are_the_same_alone_and_in_a_batch():
    torch.manual_seed(0)
    model = MViTv2(**PICO)
    batch, images = make_batch(SIZES[:2], 128, 128)
    weights = {name: torch.randn_like(output) for name, output in model(batch).items()}

    def loss(images, first):
        """Weighs each output; an image alone gets the weights it has in the batch."""
        total = 0.0
        for name, output in model(images).items():
            count, _, height, width = output.shape
            weight = weights[name][first : first + count, :, :height, :width]
            total = total + (output * weight).sum()
        return total

    in_batch = torch.autograd.grad(loss(batch, 0), model.parameters())
    alone = torch.autograd.grad(
        sum(loss(image[None], index) for index, image in enumerate(images)),
        model.parameters(),
    )
    scales = {name: grad.norm() for (name, _), grad in zip(model.named_parameters(), alone)}
    for (name, _), actual, expected in zip(model.named_parameters(), in_batch, alone):
        # Softmax is blind to what all keys share: the gradient of this bias is next to nothing.
        scale = scales[name.replace("norm_k.bias", "norm_k.weight")]
        assert (actual - expected).norm() <= 1e-5 * scale, name


def test_sizes_may_be_given_and_are_refused_without_the_option():
    torch.manual_seed(0)
    model = MViTv2(**PICO).eval()
    batch, _ = make_batch(SIZES, 128, 160)
    with torch.no_grad():
        found, given = model(batch), model(batch, image_sizes=SIZES)
    for name in found:
        assert torch.equal(found[name], given[name])
    with pytest.raises(ValueError, match="image_sizes are of use with mask_padding=True only"):
        MViTv2(**{**PICO, "mask_padding": False})(batch, image_sizes=SIZES)
