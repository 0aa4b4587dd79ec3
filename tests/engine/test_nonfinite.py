import json

import pytest
import torch
from torch import nn

from mvit_det.engine.nonfinite import NonFiniteSteps
from mvit_det.engine.trainer import Trainer
from mvit_det.errors import TrainingError
from mvit_det.modeling import MViTv2, MViTv2Classifier


class Detector(nn.Module):
    """A small detector: image "bad" has an infinite loss, "cliff" a NaN gradient."""

    def __init__(self):
        super().__init__()
        self.backbone = MViTv2(
            depths=[1, 1], embed_dim=8, window_size=8, out_features=["scale3"], pretrain_img_size=32
        )
        self.head = nn.Linear(16, 1)

    def forward(self, batch):
        image = torch.stack([image["image"] for image in batch])
        loss = self.head(self.backbone(image)["scale3"].mean((2, 3))).square().mean()
        names = {image["file_name"] for image in batch}
        if "worst.png" in names:
            # As Detectron2 does about proposals.
            raise FloatingPointError("Training has diverged.")
        if "bad.png" in names:
            loss = loss * float("inf")
        if "cliff.png" in names:
            # The square root's slope at 0 is infinite.
            loss = loss + (loss * 0).sqrt()
        return {"loss_cls": loss, "loss_mask": torch.ones(())}


def make_batch(name):
    torch.manual_seed(len(name))
    return [{"file_name": f"{name}.png", "image_id": 7, "image": torch.randn(3, 32, 32)}]


def make_trainer(names, limit, output="", **arguments):
    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return Trainer(
        model,
        [make_batch(name) for name in names],
        optimizer,
        device="cpu",
        nonfinite=NonFiniteSteps(limit, output),
        **arguments,
    )


def weights(trainer):
    return nn.utils.parameters_to_vector(trainer.model.parameters()).detach().clone()


@pytest.mark.parametrize("broken", ["bad", "cliff"])
def test_a_step_that_is_left_out_changes_nothing(broken, tmp_path):
    trainer = make_trainer(["good", broken, "better"], 1, tmp_path)
    trainer.train(0, 3)
    without = make_trainer(["good", "better"], 0)
    without.train(0, 2)
    assert torch.equal(weights(trainer), weights(without))
    assert trainer.optimizer.state == without.optimizer.state


def test_what_led_to_it_is_written_down(tmp_path, caplog):
    make_trainer(["good", "bad"], 1, tmp_path, grad_accum_steps=2).train(0, 1)
    (path,) = (tmp_path / "nonfinite").iterdir()
    assert path.name == "iteration_0000000_process_0.json"
    assert "skipped this step (1 in a row, at most 1); see the batch, its losses" in caplog.text
    assert str(path) in caplog.text
    report = json.loads(path.read_text())
    assert report["iteration"] == 0
    assert report["learning_rate"] == 0.01
    assert report["gradient_norm"] == "nan"
    good, bad = report["batch"]
    assert good["images"] == [
        {"file_name": "good.png", "image_id": 7, "shape": [3, 32, 32], "objects": None}
    ]
    assert good["losses"]["loss_cls"] > 0
    assert bad["losses"] == {"loss_cls": "inf", "loss_mask": 1.0}
    by_part = report["gradient_norm_by_part_of_the_model"]
    assert list(by_part) == [
        "backbone.patch_embed",
        "backbone.scale2",
        "backbone.scale3",
        "backbone.scale3_norm",
        "head.weight",
        "head.bias",
    ]


def test_gradients_of_a_classifier_are_reported_by_stage(tmp_path):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = MViTv2Classifier(2, depths=[1, 1], embed_dim=8, pretrain_img_size=32)

        def forward(self, batch):
            images = torch.stack([image["image"] for image in batch])
            return {"loss": self.net(images).sum() * float("inf")}

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    policy = NonFiniteSteps(1, tmp_path)
    Trainer(model, [make_batch("good")], optimizer, device="cpu", nonfinite=policy).train(0, 1)
    (path,) = (tmp_path / "nonfinite").iterdir()
    groups = json.loads(path.read_text())["gradient_norm_by_part_of_the_model"]
    assert list(groups) == [
        *("net.patch_embed", "net.scale2", "net.scale3", "net.norm", "net.head"),
    ]


def test_too_many_in_a_row_end_the_training(tmp_path):
    trainer = make_trainer(["bad", "good", "bad", "bad", "good"], 1, tmp_path)
    with pytest.raises(
        TrainingError,
        match="infinite or NaN at iteration 3, as in the 1 before; see the batch",
    ) as error:
        trainer.train(0, 5)
    assert "resume with '--resume'" in str(error.value)
    assert torch.isfinite(weights(trainer)).all()


def test_predictions_that_are_nan_end_the_training_at_once(tmp_path):
    trainer = make_trainer(["good", "good", "worst"], 5, tmp_path, grad_accum_steps=3)
    before = weights(trainer)
    with pytest.raises(
        TrainingError, match="prediction was infinite or NaN at iteration 0; see the batch"
    ):
        trainer.train(0, 1)
    assert torch.equal(weights(trainer), before)
    (path,) = (tmp_path / "nonfinite").iterdir()
    *good, worst = json.loads(path.read_text())["batch"]
    assert all(part["losses"]["loss_cls"] > 0 for part in good)
    assert worst["losses"] == {}
    assert worst["images"][0]["file_name"] == "worst.png"


def test_a_report_that_cannot_be_written_ends_no_training(tmp_path, caplog):
    (tmp_path / "nonfinite").touch()
    make_trainer(["bad", "good"], 1, tmp_path).train(0, 2)
    assert "skipped this step (1 in a row, at most 1); no report of the batch" in caplog.text
    assert "gradients: cannot write '" in caplog.text


def test_by_default_the_first_one_ends_it():
    trainer = make_trainer(["good", "bad"], 0)
    with pytest.raises(TrainingError, match="infinite or NaN at iteration 1. The model was not"):
        trainer.train(0, 2)
