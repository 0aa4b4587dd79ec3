"""Classifying images: the scores of an evaluation, with names, from paths and arrays."""

import csv
import json

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from mvit_det import Classifier
from mvit_det.config import load_config
from mvit_det.errors import CheckpointError, ConfigError, ImageError
from mvit_det.prediction.classifier import imagenet_class_names
from tools.classify import main

OVERRIDES = (
    "model.classifier.depths=[1,1]",
    "model.classifier.embed_dim=16",
    "model.classifier.pretrain_img_size=32",
    "dataloader.train.mapper.image_size=32",
)
NAMES = ["a", "b", "c", "d", "e", "f"]


def make_config(*overrides):
    return load_config("configs/ImageNet/mvitv2_t.py", (*OVERRIDES, *overrides))


def make_weights(config, path, **metadata):
    torch.manual_seed(0)
    model = instantiate(config.model)
    # Larger logits than those of an untrained head.
    torch.nn.init.normal_(model.classifier.head.weight)
    torch.save({"model": model.state_dict(), **metadata}, path)
    return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    config = make_config("model.num_classes=6")
    model = make_weights(config, folder / "model.pth", class_names=NAMES)
    return config, folder / "model.pth", model


def random_image(seed=0, size=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def test_the_five_best_are_those_of_an_evaluation(trained, tmp_path):
    config, weights, model = trained
    Image.fromarray(random_image()).save(tmp_path / "image.png")
    classifier = Classifier(config, weights, device="cpu")
    best = classifier(tmp_path / "image.png")
    mapper = instantiate(config.dataloader.test.mapper)
    record = mapper({"file_name": str(tmp_path / "image.png"), "label": 0})
    with torch.no_grad():
        (output,) = model([record])
    scores, classes = output["scores"].topk(5)
    assert [each.score for each in best] == scores.tolist()
    assert [each.class_id for each in best] == classes.tolist()
    assert [each.name for each in best] == [NAMES[index] for index in classes]
    assert classifier(random_image()) == best


def test_a_list_gives_a_list_in_order(trained):
    config, weights, _ = trained
    images = [random_image(seed) for seed in range(5)]
    classifier = Classifier(config, weights, device="cpu", batch_size=2, top=1)
    together = classifier(images)
    for image, (best,) in zip(images, together):
        ((alone),) = classifier(image)
        assert best.name == alone.name
        assert best.score == pytest.approx(alone.score, abs=1e-6)
    assert classifier([]) == []


def test_classes_without_names_are_numbered_and_imagenets_are_known(tmp_path):
    config = make_config("model.num_classes=4")
    make_weights(config, tmp_path / "plain.pth")
    assert Classifier(config, tmp_path / "plain.pth", device="cpu").class_names[3] == "class 3"
    config = make_config()
    make_weights(config, tmp_path / "imagenet.pth")
    names = Classifier(config, tmp_path / "imagenet.pth", device="cpu").class_names
    assert names == imagenet_class_names()
    assert (len(names), names[0], names[207]) == (1000, "tench", "golden retriever")


def test_names_for_another_number_of_classes_are_refused(tmp_path):
    config = make_config("model.num_classes=4")
    make_weights(config, tmp_path / "model.pth", class_names=NAMES)
    with pytest.raises(CheckpointError, match=r"model\.pth' names 6 .* set model\.num_classes=6"):
        Classifier(config, tmp_path / "model.pth", device="cpu")


def test_mistakes_are_one_sentence(trained, tmp_path):
    config, weights, _ = trained
    with pytest.raises(ConfigError, match="top is 0"):
        Classifier(config, weights, top=0)
    with pytest.raises(ConfigError, match="top is '3'"):
        Classifier(config, weights, top="3")
    with pytest.raises(CheckpointError, match="no weights"):
        Classifier(config)
    with pytest.raises(ConfigError, match=r"model\.classifier"):
        Classifier("configs/COCO/mask_rcnn_mvitv2_t.py", weights)
    classifier = Classifier(config, weights, device="cpu")
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        classifier(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="float"):
        classifier(random_image() / 255)


def test_the_tool_writes_tables_and_skips_what_is_no_image(trained, tmp_path, capsys):
    config, weights, _ = trained
    from omegaconf import OmegaConf

    OmegaConf.save(config, tmp_path / "config.yaml")
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        Image.fromarray(random_image(seed)).save(photos / f"{seed}.png")
    common = ["--config-file", str(tmp_path / "config.yaml"), "--weights", str(weights),
              "--device", "cpu", "--top", "2", "--input", str(photos)]  # fmt: skip
    assert main([*common, "--output", str(tmp_path / "out.csv")]) == 0
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file_name"], row["rank"]) for row in rows] == [
        (str(photos / f"{seed}.png"), str(rank)) for seed in range(3) for rank in (1, 2)
    ]
    (photos / "1.png").write_text("no image")
    assert main([*common, "--output", str(tmp_path / "out.json")]) == 1
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [entry["file_name"] for entry in entries] == [
        str(photos / "0.png"), str(photos / "2.png")
    ]  # fmt: skip
    assert entries[0]["classes"][0]["name"] == rows[0]["class"]
    assert "1.png" in capsys.readouterr().err
    assert main(common) == 1
    assert rows[0]["class"] in capsys.readouterr().out
    assert main([*common, "--output", "out.txt"]) == 2
    capsys.readouterr()
    assert main([*common, "--output", str(weights / "out.csv")]) == 2
    assert str(weights / "out.csv") in capsys.readouterr().err
