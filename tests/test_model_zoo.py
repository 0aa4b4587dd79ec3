"""The table of published models, their configs, and models built from it."""

import pickle
import re

import pytest
import torch
from detectron2.config import instantiate

import mvit_det
from mvit_det import MViTv2, VideoMViT, model_zoo
from mvit_det.checkpoint.download import cache_path
from mvit_det.errors import ConfigError

DETECTORS = model_zoo.list_detectors()
DEPTHS = {"t": 10, "s": 16, "b": 24, "l": 48, "h": 80}


def test_table():
    assert len(DETECTORS) == 13
    assert len(model_zoo.list_models()) == 26
    for name in model_zoo.list_models():
        model = model_zoo.MODELS[name]
        assert model.name == name
        assert model.url.startswith("https://dl.fbaipublicfiles.com/")
        assert model.licence == ("CC BY-SA 3.0" if name in DETECTORS else "Apache-2.0")
        assert (model.box_ap is not None) == (name in DETECTORS)
        if name in DETECTORS:
            assert re.search(r"/f?\d{9}/model_final_[0-9a-f]{6}\.pkl$", model.url)
            assert model.config.endswith(f"/{name}.py")
    small = model_zoo.MODELS["cascade_mask_rcnn_mvitv2_s"]
    assert (small.box_ap, small.mask_ap, small.parameters, small.flops) == (53.2, 46.0, 87, 748)
    lvis = model_zoo.MODELS["cascade_mask_rcnn_mvitv2_h_in21k_lvis"]
    assert (lvis.box_ap, lvis.mask_ap, lvis.epochs, lvis.flops) == (49.5, 44.1, 50, None)


@pytest.mark.parametrize(
    "name", [name for name in DETECTORS if model_zoo.MODELS[name].flops is None]
)
def test_parameters_that_were_counted_here(name):
    config = model_zoo.get_config(name).model
    with torch.device("meta"):
        model = instantiate(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6) == model_zoo.MODELS[name].parameters


def test_imagenet_21k_weights_are_pretrainings_without_an_imagenet_1k_accuracy():
    for name in ("mvitv2_b_in21k", "mvitv2_l_in21k", "mvitv2_h_in21k"):
        entry = model_zoo.MODELS[name]
        assert (entry.num_classes, entry.accuracy) == (19168, None)
        size = getattr(mvit_det, f"mvitv2_{entry.size}")
        with torch.device("meta"):
            model = size(num_classes=entry.num_classes, **entry.arguments)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        assert round(parameters / 1e6) == entry.parameters


@pytest.mark.parametrize("name", DETECTORS)
def test_configs(name):
    config = model_zoo.get_config(name)
    size = name.split("mvitv2_")[1][0]
    assert sum(config.model.backbone.bottom_up.depths) == DEPTHS[size]
    pretraining = model_zoo.MODELS[name].pretraining.lower()
    address = f"detectron2://ImageNetPretrained/mvitv2/MViTv2_{size.upper()}_{pretraining}.pyth"
    assert config.train.init_checkpoint == address


def test_unknown_names():
    with pytest.raises(ConfigError, match="'mvitv2_x'.*mask_rcnn_mvitv2_t"):
        model_zoo.get_model("mvitv2_x")
    with pytest.raises(ConfigError, match="'mvitv2_x'"):
        model_zoo.get_config("mvitv2_x")


@pytest.mark.parametrize(
    "name", [model.name for model in model_zoo.MODELS.values() if not model.is_detector]
)
def test_classifiers_have_a_config_of_the_published_size(name):
    published = model_zoo.MODELS[name]
    config = model_zoo.get_config(name).model
    assert config.num_classes == published.num_classes
    with torch.device("meta"):
        classifier = instantiate(config.classifier)
        if published.is_video:
            assert isinstance(model_zoo.get_model(name), VideoMViT)
    millions = sum(p.numel() for p in classifier.parameters()) / 1e6
    assert millions == pytest.approx(published.parameters, rel=0.02)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    return tmp_path


def test_trained_detector(cache):
    name = "mask_rcnn_mvitv2_t"
    source = instantiate(model_zoo.get_config(name).model)
    content = {
        "model": {key: tensor.numpy() for key, tensor in source.state_dict().items()},
        "__author__": "the zoo",
    }
    path = cache_path(model_zoo.MODELS[name].url)
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(content))
    model = model_zoo.get_model(name, trained=True)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[key])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6) == model_zoo.MODELS[name].parameters


def test_trained_backbone(cache):
    name = "mvitv2_t_in1k"
    source = model_zoo.get_model(name)
    assert isinstance(source, MViTv2)
    state = {key: tensor for key, tensor in source.state_dict().items() if "_norm." not in key}
    state["norm.weight"] = torch.ones(768)
    path = cache_path(model_zoo.MODELS[name].url)
    path.parent.mkdir(parents=True)
    torch.save({"model_state": state}, path)
    model = model_zoo.get_model(name, trained=True)
    assert torch.equal(model.blocks[3].proj.weight, source.blocks[3].proj.weight)


def test_large_backbone_of_imagenet_1k():
    """The one that widens in the MLP; only shapes, as its weights take a gigabyte."""
    with torch.device("meta"):
        model = model_zoo.get_model("mvitv2_l_in1k")
    assert model.blocks[1].proj.weight.shape == (288, 144)
    assert model.blocks[1].attn.qkv.weight.shape == (432, 144)
    assert model.blocks[2].attn.qkv.weight.shape == (864, 288)
    assert list(model.out_feature_channels.values()) == [288, 576, 1152, 1152]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # Less than published by the classifier.
    assert round((parameters + 1000 * 1153) / 1e6) == model_zoo.MODELS["mvitv2_l_in1k"].parameters


def test_configs_of_an_installed_package(tmp_path, monkeypatch):
    """Where the package holds the configs, those are taken."""
    package = tmp_path / "mvit_det"
    (package / "configs" / "COCO").mkdir(parents=True)
    (package / "configs" / "COCO" / "mask_rcnn_mvitv2_t.py").write_text("model = dict(x=1)\n")
    monkeypatch.setattr(model_zoo, "__file__", str(package / "model_zoo.py"))
    assert model_zoo.get_config("mask_rcnn_mvitv2_t").model.x == 1
