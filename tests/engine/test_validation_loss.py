"""The loss on the test dataset."""

import json

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage

from mvit_det.config import load_config, resolve_device
from mvit_det.config.loading import build_model
from mvit_det.data.sampling import derive_seed
from mvit_det.engine import train
from mvit_det.engine.evaluate import Evaluation
from mvit_det.engine.validation_loss import ValidationLoss
from mvit_det.errors import ConfigError


def make_config(output, *overrides, name="shapes/mask_rcnn_mvitv2_pico"):
    config = load_config(
        f"configs/{name}.py",
        [
            f"train.output_dir={output}",
            "train.log_period=1",
            "train.visualized_images=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.num_workers=0",
            *overrides,
        ],
    )
    resolve_device(config, "cpu")
    return config


@pytest.fixture(autouse=True)
def few_images(shapes_root, monkeypatch):
    load = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:4])


def test_it_is_the_training_loss_of_each_image_without_noise(tmp_path):
    config = make_config(tmp_path, "model.backbone.bottom_up.drop_path_rate=0.9")
    torch.manual_seed(0)
    model = build_model(config).train()
    modes = [module.training for module in model.modules()]
    loss = ValidationLoss(config)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with EventStorage() as storage:
        first = loss(model)
        assert not storage.latest()
    # Neither the mode nor the random state of the training changes.
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert loss(model) == first
    assert set(first) == {
        *("total_loss", "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc")
    }
    assert first["total_loss"] == pytest.approx(sum(first.values()) - first["total_loss"])

    # A model without noise has the same loss in training mode.
    quiet = make_config(tmp_path, "model.backbone.bottom_up.drop_path_rate=0")
    torch.manual_seed(0)
    plain = build_model(quiet).train()
    plain.load_state_dict(model.state_dict())
    totals = []
    with EventStorage(), torch.no_grad():
        for batch in loss.loader:
            torch.manual_seed(derive_seed("validation loss"))
            totals.append(sum(plain(batch).values()).item())
    assert first["total_loss"] == pytest.approx(sum(totals) / len(totals), rel=1e-5)


def test_predictions_that_are_nan_give_nan(tmp_path):
    config = make_config(tmp_path)
    model = build_model(config)
    for parameter in model.proposal_generator.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    assert torch.tensor(ValidationLoss(config)(model)["total_loss"]).isnan()


def test_images_are_read_as_in_evaluation_with_the_objects_of_training(tmp_path):
    config = make_config(tmp_path)
    test = [batch[0] for batch in instantiate(config.dataloader.test)]
    images = [batch[0] for batch in ValidationLoss(config).loader]
    annotated = [image for image in test if image["image_id"] in {i["image_id"] for i in images}]
    assert images
    for image, expected in zip(images, annotated, strict=True):
        assert torch.equal(image["image"], expected["image"])
        assert len(image["instances"])
        assert image["instances"].has("gt_masks")


@pytest.mark.parametrize("name", ["cascade_mask_rcnn_mvitv2_pico"])
def test_other_detectors_have_it_as_well(name, tmp_path):
    config = make_config(tmp_path, "train.validation_loss=True", name=f"shapes/{name}")
    results = Evaluation(config)(build_model(config))
    assert results["validation"]["total_loss"] > 0
    assert {"loss_cls_stage0", "loss_cls_stage2"} <= set(results["validation"])


@pytest.mark.slow
def test_a_training_records_it_beside_its_own(tmp_path):
    config = make_config(
        tmp_path,
        *("train.validation_loss=True", "train.max_iter=2", "train.eval_period=1"),
        *("train.ema.enabled=True", "train.seed=0"),
    )
    results = train(config)
    rows = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    values = [row["validation/total_loss"] for row in rows if "validation/total_loss" in row]
    assert len(values) == 2
    assert values[-1] == results["validation"]["total_loss"]
    assert results["ema/validation"]["total_loss"] != values[-1]
    assert (tmp_path / "training.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["train.early_stopping=3", "train.eval_period=0"], "train.early_stopping=3"),
        (["train.early_stopping=3", "train.best_metric="], "train.early_stopping=3"),
        (["train.best_metric=validation/total_loss"], "'validation/total_loss'"),
    ],
)
def test_what_no_evaluation_could_do_is_an_error_at_the_start(tmp_path, overrides, named):
    with pytest.raises(ConfigError, match=named):
        train(make_config(tmp_path, "train.max_iter=1", *overrides))


def test_a_classifier_has_none(tmp_path):
    config = make_config(tmp_path, "train.validation_loss=True", name="ImageNet/mvitv2_t")
    config.train.max_iter = 1
    with pytest.raises(ConfigError, match=r"train\.validation_loss"):
        train(config)
