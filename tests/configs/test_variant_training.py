"""Each kind of detector, shrunk, trains two iterations on generated data."""

import json
import math
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from mvit_det.config import load_config, resolve_device
from mvit_det.data.lvis import load_lvis_records
from mvit_det.engine import train
from mvit_det.evaluation.lvis import LVISEvaluator

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# By config; those that differ in size alone are the same when shrunk.
TASKS = {
    "COCO/faster_rcnn_mvitv2_t": {"bbox"},
    "COCO/mask_rcnn_mvitv1_t": {"bbox", "segm"},
    "COCO/mask_rcnn_mvitv2_s_single_scale": {"bbox", "segm"},
    "COCO/mask_rcnn_vit_b": {"bbox", "segm"},
    "COCO/mask_rcnn_vit_b_single_scale": {"bbox", "segm"},
    "COCO/panoptic_fpn_mvitv2_t": {"bbox", "segm", "sem_seg"},
    "COCO/retinanet_mvitv2_t": {"bbox"},
    "LVIS/mask_rcnn_mvitv2_t": {"bbox", "segm"},
    "shapes/panoptic_fpn_mvitv2_pico": {"bbox", "segm", "sem_seg"},
    "shapes/mask_rcnn_mvitv2_pico_lvis": {"bbox", "segm"},
}
SLOW = (
    "COCO/mask_rcnn_mvitv1_t",
    "COCO/mask_rcnn_vit_b",
    "COCO/mask_rcnn_vit_b_single_scale",
    "COCO/panoptic_fpn_mvitv2_t",
)


@pytest.fixture(autouse=True)
def _few_images(shapes_root, monkeypatch):
    """Trains and evaluates on four images, to save time."""
    from detectron2.data import DatasetCatalog

    load = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:4])


def shrink(config):
    """A narrow model with few proposals on generated data; its kind stays as it is."""
    model = config.model
    backbone = model.backbone.get("bottom_up") or model.backbone.net
    single_stage = len(backbone.get("depths")) == 1
    backbone.update(pretrain_img_size=64, drop_path_rate=0.0)
    if single_stage:
        backbone.update(depths=[2], embed_dim=24, num_heads=3, window_size=4)
    else:
        backbone.update(depths=[1, 1, 1, 1], embed_dim=16, window_size=16)
    model.backbone.out_channels = 16
    if "roi_heads" in model:
        model.proposal_generator.update(pre_nms_topk=[50, 50], post_nms_topk=[20, 20])
        model.roi_heads.update(batch_size_per_image=8)
        model.roi_heads.num_classes = 5
        if "fed_loss_num_classes" in model.roi_heads.box_predictor:
            model.roi_heads.box_predictor.fed_loss_num_classes = 3
        model.roi_heads.box_head.update(conv_dims=[], fc_dims=[32])
        model.roi_heads.box_predictor.input_shape.channels = 32
        if "mask_head" in model.roi_heads:
            model.roi_heads.mask_head.conv_dims = [16, 16]
    else:
        model.num_classes = 5
        model.head.conv_dims = [16]
    if "sem_seg_head" in model:
        model.sem_seg_head.update(num_classes=5, conv_dims=32)


def use_generated_data(config):
    for part, split in (("train", "train"), ("test", "val")):
        loader = config.dataloader[part]
        view = next((v for v in ("panoptic", "lvis") if v in loader.dataset.names), "")
        loader.dataset.names = f"shapes_{view}_{split}" if view else f"shapes_{split}"
        loader.mapper.augmentations = []
        loader.num_workers = 0
    config.dataloader.train.total_batch_size = 2


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TASKS]
)
def test_two_iterations(name, tmp_path):
    config = load_config(CONFIGS / f"{name}.py")
    shrink(config)
    use_generated_data(config)
    config.train.update(
        init_checkpoint="",
        output_dir=str(tmp_path),
        max_iter=2,
        log_period=1,
        visualized_images=0,
        seed=1,
    )
    resolve_device(config, "cpu")
    torch.manual_seed(0)
    results = train(config)
    assert set(results) == TASKS[name]
    lines = list(map(json.loads, (tmp_path / "metrics.json").read_text().splitlines()))
    losses = [line for line in lines if "total_loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(line["total_loss"]) for line in losses)
    assert ("loss_sem_seg" in losses[0]) == ("panoptic" in name)
    assert ("loss_mask" in losses[0]) == ("segm" in TASKS[name])


def test_configs_are_what_their_names_say():
    def backbone(name):
        model = load_config(CONFIGS / "COCO" / f"{name}.py").model
        return instantiate(model.backbone.get("bottom_up") or model.backbone.net)

    with torch.device("meta"):
        old, vit = backbone("mask_rcnn_mvitv1_s"), backbone("mask_rcnn_vit_b")
        single = backbone("mask_rcnn_mvitv2_s_single_scale")
    assert old.pos_embed.shape == (1, 1 + 56**2, 96)
    assert not any(block.attn.residual_pooling for block in old.blocks)
    assert all(plan.attention_dim == plan.dim for plan in old.plan)
    assert [plan.window_size for plan in old.plan][-1] == 0
    assert len(vit.plan) == 12
    assert {plan.window_size for plan in vit.plan} == {0}
    assert not any("pool" in name for name in vit.state_dict())
    assert single.out_feature_strides == {"scale4": 16}
    assert len(single.blocks) == 14


def test_federated_loss_draws_classes_by_their_images():
    config = load_config(CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico_lvis.py")
    predictor = instantiate(config.model).roi_heads.box_predictor
    counts = json.loads(Path(metadata_file("shapes_lvis_train")).read_text())["categories"]
    expected = torch.tensor([category["image_count"] for category in counts]).sqrt()
    torch.testing.assert_close(predictor.fed_loss_cls_weights, expected)
    assert predictor.use_sigmoid_ce
    assert predictor.fed_loss_num_classes == 3
    with torch.device("meta"):
        config = load_config(CONFIGS / "LVIS" / "mask_rcnn_mvitv2_t.py")
        predictor = instantiate(config.model).roi_heads.box_predictor
    assert predictor.cls_score.weight.shape == (1204, 1024)
    assert predictor.fed_loss_cls_weights.shape == (1203,)
    # The grid is drawn from predictions in COCO's format.
    assert config.train.visualized_images == 0


def metadata_file(name):
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get(name).json_file


def test_lvis_evaluation():
    """Of what is annotated, as if a model had found it."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import Boxes, BoxMode, Instances

    DatasetCatalog.get("shapes_lvis_val")
    metadata = MetadataCatalog.get("shapes_lvis_val")
    evaluator = LVISEvaluator("shapes_lvis_val", tasks=("bbox",), distributed=False)
    for record in load_lvis_records(metadata.json_file, metadata.image_root, "shapes_lvis_val"):
        found = Instances((record["height"], record["width"]))
        boxes = [
            BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
        found.pred_boxes = Boxes(torch.tensor(boxes).view(-1, 4))
        found.scores = torch.ones(len(boxes))
        found.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
