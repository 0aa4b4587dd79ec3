"""Weights of models for clips: files of SlowFast and torchvision, inflation of image weights."""

import pytest
import torch
from torchvision.models.video import mvit_v1_b, mvit_v2_s

import mvit_det
from mvit_det.checkpoint import load_weights
from mvit_det.checkpoint.converting import convert
from mvit_det.checkpoint.matching import KeyStatus
from mvit_det.errors import CheckpointError

THIN = dict(depths=(1, 2, 2, 1), embed_dim=16, frames=4, img_size=32, dropout=0.0)
BUILDERS = {1: (mvit_v1_b, mvit_det.video_mvitv1_b), 2: (mvit_v2_s, mvit_det.video_mvitv2_s)}


def pico(version=2, seed=0, num_classes=5, **arguments):
    torch.manual_seed(seed)
    model = BUILDERS[version][1](num_classes, **{**THIN, **arguments}).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def assert_same_weights(model, other):
    for (name, tensor), expected in zip(model.state_dict().items(), other.state_dict().values()):
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_torchvision_load_and_come_back(version, tmp_path):
    """In full size: the names and shapes are those of torchvision's own models."""
    theirs, ours = BUILDERS[version]
    torch.manual_seed(0)
    reference, model = theirs(num_classes=7), ours(7)
    torch.save(reference.state_dict(), tmp_path / "theirs.pth")
    report = load_weights(model, tmp_path / "theirs.pth")
    assert "torchvision" in report.title
    assert len(report.keys(KeyStatus.LOADED)) == len(model.state_dict()) == len(report.entries)
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    convert(tmp_path / "ours.pth", tmp_path / "back.pth", "torchvision")
    back = torch.load(tmp_path / "back.pth")
    assert back.keys() == reference.state_dict().keys()
    for name, tensor in reference.state_dict().items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_slowfast_load_and_come_back(version, tmp_path):
    source, target = pico(version), pico(version, seed=1)
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    convert(tmp_path / "ours.pth", tmp_path / "MVITv2.pyth", "slowfast")
    content = torch.load(tmp_path / "MVITv2.pyth")
    assert "head.projection.weight" in content["model_state"]
    report = load_weights(target, tmp_path / "MVITv2.pyth")
    assert "SlowFast" in report.title
    assert_same_weights(target, source)


def test_image_weights_do_not_become_files_for_clips(tmp_path):
    image = mvit_det.mvitv2_t(num_classes=5, depths=(1, 1), embed_dim=16)
    torch.save(image.state_dict(), tmp_path / "image.pth")
    with pytest.raises(CheckpointError, match="torchvision"):
        convert(tmp_path / "image.pth", tmp_path / "clips.pth", "torchvision")


@pytest.mark.parametrize("version", [1, 2])
def test_longer_and_larger_clips_resize_the_positions(version, tmp_path):
    source, target = pico(version), pico(version, seed=1, frames=8, img_size=64)
    torch.save(source.state_dict(), tmp_path / "short.pth")
    report = load_weights(target, tmp_path / "short.pth", purpose="train")
    assert all("pos" in key for key in report.keys(KeyStatus.RESIZED))
    assert len(report.keys(KeyStatus.RESIZED)) == (2 if version == 1 else 3 * len(target.blocks))
    clips = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(target(clips), source(clips), rtol=1e-4, atol=1e-4)


def make_image_model(class_token):
    torch.manual_seed(2)
    image = mvit_det.mvitv2_t(
        num_classes=5, class_token=class_token, depths=THIN["depths"], embed_dim=16, key_stride=8,
        pretrain_img_size=32, rel_pos_std=0.2, drop_path_rate=0.0,
    ).eval()  # fmt: skip
    for parameter in image.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return image


def test_inflated_weights_see_images_at_the_start(tmp_path):
    """A clip of two frames, which the patch embedding joins, gives the logits of its image."""
    image, video = make_image_model(class_token=True), pico()
    torch.save(image.state_dict(), tmp_path / "image.pth")
    report = load_weights(video, tmp_path / "image.pth", purpose="train")
    assert len(report.keys(KeyStatus.LOADED)) + len(report.keys(KeyStatus.RESIZED)) == len(
        video.state_dict()
    )
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        logits = video(images[:, :, None].expand(-1, -1, 2, -1, -1))
        torch.testing.assert_close(logits, image(images), rtol=1e-5, atol=1e-5)


def test_inflated_weights_treat_all_frames_of_a_still_clip_alike(tmp_path):
    image, video = make_image_model(class_token=False), pico()
    torch.save(image.state_dict(), tmp_path / "image.pth")
    report = load_weights(video, tmp_path / "image.pth", purpose="train", reset_head=True)
    assert report.keys(KeyStatus.NEW) == ["head.weight", "head.bias", "cls_token"]
    still = torch.randn(1, 3, 1, 48, 64).expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        _, features = video.forward_features(still)
    torch.testing.assert_close(features, features[:, :, :1].expand_as(features))


def test_image_weights_are_no_model_to_evaluate_on_clips(tmp_path):
    torch.save(make_image_model(class_token=True).state_dict(), tmp_path / "image.pth")
    with pytest.raises(CheckpointError, match="shape"):
        load_weights(pico(), tmp_path / "image.pth")
