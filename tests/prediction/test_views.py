"""Test-time augmentation and slices in a predictor: as in an evaluation, and with its threshold."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools import mask as mask_util

from mvit_det import Predictor
from mvit_det.checkpoint import Checkpointer
from mvit_det.cli import predict
from mvit_det.config import load_config, resolve_device
from mvit_det.detection.build import set_nms_method
from mvit_det.detection.heads import BoxPredictor
from mvit_det.detection.masks import RLEMasks
from mvit_det.engine import evaluate_checkpoint
from mvit_det.errors import ConfigError

PICO = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
TTA = {"tta": {"short_sides": [96, 128], "max_size": 200}}
SLICES = {"slices": {"tile_size": 80}, "merge": {"method": "linear"}}


def make_config(inference=None, path=PICO, **head):
    config = load_config(path, ["train.visualized_images=0"])
    config.model.roi_heads.box_predictor.update(
        {"test_score_thresh": 0.0, "test_topk_per_image": 10, **head}
    )
    config.model.proposal_generator.update(pre_nms_topk=[40, 40], post_nms_topk=[20, 20])
    if inference:
        config.merge_with({"inference": inference})
    return config


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = instantiate(make_config().model)
    model.roi_heads.box_predictor.cls_score.weight.data *= 30
    Checkpointer(model, folder).save("model")
    return folder / "model.pth"


def image(height=100, width=120):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("inference", [TTA, SLICES], ids=["tta", "slices"])
def test_numbers_are_those_of_an_evaluation(inference, weights, shapes_root, tmp_path, monkeypatch):
    load = DatasetCatalog.get
    load("shapes_val")  # generates it
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:2])
    config = make_config(inference)
    config.train.update(output_dir=str(tmp_path), init_checkpoint=str(weights))
    resolve_device(config, "cpu")
    evaluate_checkpoint(config)
    path = tmp_path / "evaluation" / "coco_instances_results.json"
    results = json.loads(path.read_text())
    predictor = Predictor(config, weights, device="cpu")
    predicted = []
    for record in DatasetCatalog.get("shapes_val"):
        prediction = predictor(record["file_name"])
        assert len(prediction.instances) > 0
        predicted += prediction.to_coco(record["image_id"])
    assert predicted == results
    assert predictor.model.roi_heads.mask_on


def test_masks_of_slices_stay_encoded(weights, tmp_path):
    prediction = Predictor(make_config(SLICES), weights, device="cpu")(image())
    masks = prediction.instances.pred_masks
    assert isinstance(masks, RLEMasks)
    assert prediction.draw().shape == (100, 120, 3)
    results = prediction.to_coco(7)
    assert len(results) == len(prediction.instances)
    for result, pixels in zip(results, masks):
        assert np.array_equal(mask_util.decode(result["segmentation"]), pixels.numpy())
    prediction.save(tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == prediction.to_coco()


@pytest.mark.parametrize("method", ["nms", "fusion"])
def test_the_threshold_holds_for_merged_scores(method, weights):
    config = make_config({**TTA, "merge": {"method": method}})
    everything = Predictor(config, weights, device="cpu")(image()).instances
    threshold = float(everything.scores.median())
    found = Predictor(config, weights, device="cpu", score_threshold=threshold)(image()).instances
    assert 0 < len(found) < len(everything)
    assert torch.equal(found.scores, everything.scores[everything.scores > threshold])


def test_threads_share_a_predictor(weights):
    predictor = Predictor(make_config(TTA), weights, device="cpu")
    images = [image(100, 110), image(90, 120), image(80, 80)]
    expected = [predictor(one).instances for one in images]
    with ThreadPoolExecutor(3) as pool:
        found = [prediction.instances for prediction in pool.map(predictor, images)]
    for one, other in zip(found, expected):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_masks, other.pred_masks)


@pytest.mark.parametrize(
    ("inference", "names"),
    [
        ({**TTA, **SLICES}, ["inference.tta.short_sides", "inference.slices.tile_size"]),
        ({"tta": {"short_sides": [8], "flips": True}}, ["flips", "short_sides"]),
        ({"tta": {"short_sides": [800], "max_size": 700}}, ["inference.tta.max_size", "700"]),
    ],
)
def test_settings_that_cannot_be(inference, names, weights):
    with pytest.raises(ConfigError) as caught:
        Predictor(make_config(inference), weights, device="cpu")
    for name in names:
        assert name in str(caught.value)


def test_groups_without_a_size_change_nothing(weights):
    plain = Predictor(make_config(), weights, device="cpu")(image()).instances
    inference = {"tta": {"flip": True}, "slices": {"overlap": 0.3}, "merge": {"method": "nms"}}
    found = Predictor(make_config(inference), weights, device="cpu")(image()).instances
    assert torch.equal(found.scores, plain.scores)


def test_soft_nms_for_configs_of_earlier_releases(weights, tmp_path):
    """Which name Detectron2's classes."""
    config = make_config(test_nms_thresh=0.1)
    assert config.model.roi_heads.box_predictor._target_ is BoxPredictor
    config.model.roi_heads.box_predictor._target_ = (
        "detectron2.modeling.roi_heads.fast_rcnn.FastRCNNOutputLayers"
    )
    hard = Predictor(config, weights, device="cpu")(image()).instances
    set_nms_method(config.model, "linear")
    soft = Predictor(config, weights, device="cpu")(image()).instances
    assert len(soft) > 0
    assert not torch.equal(hard.scores[: len(soft)], soft.scores[: len(hard)])
    with pytest.raises(ConfigError, match="no box head"):
        set_nms_method(config.model.backbone, "linear")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--tta", "96", "128", "--merge", "fusion"], "DetectorWithTTA"),
        (["--tile-size", "64", "--soft-nms", "gaussian"], "SlicedDetector"),
    ],
)
def test_flags_of_the_demo(options, expected, weights, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        predict, "Predictor", lambda *a, **k: built.append(Predictor(*a, **k)) or built[0]
    )
    Image.fromarray(image(64, 80)).save(tmp_path / "noise.png")
    arguments = ["--config-file", str(PICO), "--weights", str(weights), "--device", "cpu"]
    arguments += ["--confidence-threshold", "0.01", "--output", str(tmp_path / "found")]
    arguments += ["--input", str(tmp_path / "noise.png"), *options]
    assert predict.main(arguments, "predict") == 0
    (predictor,) = built
    assert type(predictor.detector).__name__ == expected
    assert predictor.detector.merge.method == ("fusion" if "fusion" in options else "nms")
    method = predictor.model.roi_heads.box_predictor.test_nms_method
    assert method == ("gaussian" if "gaussian" in options else "hard")
    assert (tmp_path / "found" / "noise.png").exists()
