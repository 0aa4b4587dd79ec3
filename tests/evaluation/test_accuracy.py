"""Accuracy equals a plain loop's, and its tables and plots say what they count."""

import csv
import math

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from mvit_det.config import build_model, load_config
from mvit_det.config.image_folders import use_image_folders
from mvit_det.engine import evaluate, launch
from mvit_det.evaluation.accuracy import WORST_MISTAKES, AccuracyEvaluator
from tests.engine.trainings import ROOT

NAMES = ["cat", "dog", "$x^{", "猫", "e", "f", "g"]


@pytest.fixture
def evaluator():
    MetadataCatalog.get("accuracy_test").set(thing_classes=NAMES)
    yield AccuracyEvaluator("accuracy_test")
    MetadataCatalog.remove("accuracy_test")


def make_images(folder, count):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(count, len(NAMES), generator=generator).softmax(1)
    labels = torch.randint(0, len(NAMES) - 1, (count,), generator=generator).tolist()
    inputs = []
    for index, label in enumerate(labels):
        path = folder / f"{index:03}.png"
        Image.fromarray(np.full((20, 30, 3), index, np.uint8)).save(path)
        inputs.append({"file_name": str(path), "label": label})
    return inputs, [{"scores": row} for row in scores]


def test_top1_and_top5_equal_a_plain_loop(evaluator, tmp_path):
    inputs, outputs = make_images(tmp_path, 60)
    for start in range(0, 60, 7):
        evaluator.process(inputs[start : start + 7], outputs[start : start + 7])
    ranks = [
        sorted(range(len(NAMES)), key=lambda k: -output["scores"][k]).index(record["label"])
        for record, output in zip(inputs, outputs)
    ]
    metrics = evaluator.evaluate()["classification"]
    assert metrics["top1"] == pytest.approx(100 * np.mean([rank == 0 for rank in ranks]))
    assert metrics["top5"] == pytest.approx(100 * np.mean([rank < 5 for rank in ranks]))
    assert evaluator.confusion.sum() == 60
    assert len(evaluator.mistakes) == WORST_MISTAKES
    wrong = [output["scores"].max().item() for rank, output in zip(ranks, outputs) if rank > 0]
    assert [mistake.score for mistake in evaluator.mistakes] == pytest.approx(
        sorted(wrong, reverse=True)[:WORST_MISTAKES]
    )
    evaluator.reset()
    assert all(math.isnan(value) for value in evaluator.evaluate()["classification"].values())


def test_the_report_lists_every_class(evaluator, tmp_path):
    inputs, outputs = make_images(tmp_path, 40)
    evaluator.process(inputs, outputs)
    evaluator.evaluate()
    (tmp_path / "000.png").unlink()
    evaluator.save_report(tmp_path)
    with open(tmp_path / "accuracy.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == NAMES
    assert sum(int(row["images"]) for row in rows) == 40
    # No image of the last class was seen.
    assert (rows[-1]["images"], rows[-1]["top1"]) == ("0", "")
    first = evaluator.confusion[0]
    assert float(rows[0]["top1"]) == pytest.approx(100 * first[0] / first.sum(), abs=0.01)
    for name in ("confusion_matrix.png", "worst_mistakes.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300


def test_a_perfect_model_has_no_mistakes_to_draw(evaluator, tmp_path):
    scores = torch.eye(len(NAMES))
    inputs = [{"file_name": "x.png", "label": label} for label in range(len(NAMES))]
    evaluator.process(inputs, [{"scores": row} for row in scores])
    assert evaluator.evaluate() == {"classification": {"top1": 100.0, "top5": 100.0}}
    evaluator.save_report(tmp_path)
    assert not (tmp_path / "worst_mistakes.png").exists()


SIZE, RATIO = 32, 0.8


def build(folder):
    """The config and the model, with the same random weights in every rank."""
    config = load_config(
        ROOT / "configs/shapes/classifier_mvitv2_pico.py",
        [
            "model.classifier.depths=[1,1]",
            "model.classifier.init_std=0.3",
            f"data.val_folder={folder / 'images'}",
            f"dataloader.train.mapper.image_size={SIZE}",
            f"dataloader.test.mapper.crop_ratio={RATIO}",
            "dataloader.test.batch_size=3",
        ],
    )
    use_image_folders(config, evaluate_only=True)
    torch.manual_seed(0)
    model = build_model(config).eval()
    torch.nn.init.normal_(model.classifier.head.weight)
    return config, model


def evaluate_share(folder):
    """Evaluates as one rank."""
    torch.set_num_threads(1)
    config, model = build(folder)
    for crop in ("center", "full"):
        config.dataloader.test.mapper.crop = crop
        config.train.output_dir = str(folder / crop)
        evaluate(config, model)


def crop_by_hand(image, crop):
    if crop == "full":
        return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    short = int(SIZE / RATIO)
    scale = short / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (round((side - SIZE) / 2) for side in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


@pytest.mark.slow
def test_two_ranks_equal_a_plain_loop(tmp_path, monkeypatch):
    """With both crops, and a number of images that neither ranks nor batches divide."""
    generator = np.random.default_rng(0)
    for index in range(23):
        folder = tmp_path / "images" / f"class {index % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        # Left and right differ, and only the full crop sees both ends.
        colours = np.repeat(generator.integers(0, 256, (1, 4, 3)), 16 + index % 5, axis=1)
        noise = generator.integers(-20, 21, (50, *colours.shape[1:]))
        Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8)).save(
            folder / f"{index:02}.png"
        )

    # The launcher changes it for good.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch(evaluate_share, (tmp_path,), device="cpu", num_processes=2)

    config, model = build(tmp_path)
    mean, std = (np.array(values) for values in (config.model.pixel_mean, config.model.pixel_std))
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    orders = {}
    for crop in ("center", "full"):
        counts = {name: [0, 0, 0] for name in names}
        orders[crop] = []
        for path in sorted(tmp_path.glob("images/*/*.png")):
            pixels = (np.array(crop_by_hand(Image.open(path), crop)) - mean) / std
            image = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
            with torch.no_grad():
                order = model.classifier(image)[0].argsort(descending=True).tolist()
            rank = order.index(names.index(path.parent.name))
            counts[path.parent.name] = list(
                np.add(counts[path.parent.name], (1, rank == 0, rank < 5))
            )
            orders[crop].append(order)
        with open(tmp_path / crop / "evaluation" / "accuracy.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == names
        for row, (images, top1, top5) in zip(rows, counts.values(), strict=True):
            assert int(row["images"]) == images
            assert row["top1"] == f"{100 * top1 / images:.2f}"
            assert row["top5"] == f"{100 * top5 / images:.2f}"
    assert orders["center"] != orders["full"]
    assert len({order[0] for order in orders["full"]}) > 1
