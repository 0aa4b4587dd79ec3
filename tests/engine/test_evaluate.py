"""Evaluation of checkpoints in the folders of trainings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from mvit_det.checkpoint import Checkpointer
from mvit_det.checkpoint.state import STATE_FILE
from mvit_det.config import load_config, resolve_device
from mvit_det.engine import evaluate_checkpoint
from mvit_det.errors import CheckpointError

PICO = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"


@pytest.fixture
def run_folder(shapes_root, tmp_path, monkeypatch):
    """The output folder of a training with sharded checkpoints, one EMA and four test images."""
    from detectron2.data import DatasetCatalog

    load = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:4])
    torch.manual_seed(0)
    model = instantiate(load_config(PICO).model)
    average = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    checkpointer = Checkpointer(model, tmp_path, sharded=True)
    checkpointer.resume_or_load("", resume=False)
    for name in ("model_0000002", "model_final"):
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
        checkpointer.save(name, trainer={"hooks": {"ModelEMA": {"average": average}}})
    return tmp_path


def evaluate(folder, *overrides, **options):
    """The predictions of the evaluated weights."""
    overrides = [f"train.output_dir={folder}", "train.visualized_images=0", *overrides]
    config = load_config(PICO, overrides)
    resolve_device(config, "cpu")
    evaluate_checkpoint(config, **options)
    return json.loads((folder / "evaluation" / "coco_instances_results.json").read_text())


def test_shards_are_evaluated_as_the_file_of_the_same_weights_is(run_folder):
    found = evaluate(run_folder, resume=True)
    assert len(found) > 0
    final = f"train.init_checkpoint={run_folder}/model_final"
    assert found == evaluate(run_folder, f"{final}.pth")
    assert found == evaluate(run_folder, final, trust_checkpoint=True)
    # The newest that is left, of which there is no file.
    shutil.rmtree(run_folder / "model_final")
    (run_folder / "model_final.pth").unlink()
    assert found != evaluate(run_folder, resume=True)


def test_shards_of_other_origin_are_not_evaluated(run_folder):
    """PyTorch reads their index with pickle."""
    for name, instead in (
        ("model_final", "name '.*/model_final.pth', which holds its weights"),
        ("model_0000002", "convert-weights .*/model_0000002 .*/model_0000002.pth --to mvit_det"),
    ):
        with pytest.raises(CheckpointError, match=instead):
            evaluate(run_folder, f"train.init_checkpoint={run_folder / name}")


@pytest.mark.parametrize("name", [STATE_FILE, ".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("content", [b"", bytes(8)])
def test_shards_that_cannot_be_read(name, content, run_folder):
    (run_folder / "model_final" / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="/model_final") as raised:
        evaluate(run_folder, resume=True)
    assert "\n" not in str(raised.value)


def test_without_a_checkpoint_nothing_else_is_evaluated(shapes_root, tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint in '{tmp_path}'"):
        evaluate(tmp_path, "train.init_checkpoint=of_imagenet.pth", resume=True)
