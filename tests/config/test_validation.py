"""Unknown fields and impossible values in configs."""

import functools
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.modeling.roi_heads import CascadeROIHeads, MaskRCNNConvUpsampleHead
from omegaconf import OmegaConf

from mvit_det import MViTv2, MViTv2Backbone
from mvit_det.config import load_config
from mvit_det.config.validation import arguments_of, find_issues
from mvit_det.errors import ConfigError

PICO = Path(__file__).resolve().parents[2] / "configs" / "shapes" / "mask_rcnn_mvitv2_pico.py"
CALL = "a call (a group of fields with _target_)"
BACKBONE = "model.backbone.bottom_up"


@pytest.mark.parametrize(
    ("field", "suggestion"),
    [
        ("train.max_iters", "train.max_iter"),
        ("train.amp.dtpe", "train.amp.dtype"),
        ("optimzer.lr", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("bottom_up.embed_dim", f"{BACKBONE}.embed_dim"),
        (f"{BACKBONE}.emded_dim", f"{BACKBONE}.embed_dim"),
        # The config leaves it at its default.
        (f"{BACKBONE}.mask_paddding", f"{BACKBONE}.mask_padding"),
        ("model.roi_heads.num_clases", "model.roi_heads.num_classes"),
        ("data.train_jsn", "data.train_json"),
        ("train.favourite_colour", "+train.favourite_colour=…"),
        ("dataloader.train.mapper.augmentations.7.prob", "a list of 1, numbered from 0"),
    ],
)
def test_unknown_fields_get_the_closest_match(field, suggestion):
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, [f"{field}=1"])
    message = str(raised.value)
    assert message.startswith(f"unknown field '{field}'")
    assert suggestion in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("train.max_iter=ten", "an integer from 0 to 1000000000"),
        ("train.max_iter=1e4", "an integer from 0 to 1000000000"),
        (f"train.max_iter={10**23}", "an integer from 0 to 1000000000"),
        ("train.grad_accum_steps=0", "an integer of at least 1"),
        ("train.compile=yes", "true or false"),
        ("train.strategy=dp", "'ddp' or 'fsdp'"),
        ("train.ema.decay=1", "a number of at least 0 and below 1"),
        ("train.amp=False", "a group of fields (enabled, dtype)"),
        ("train.output_dir=null", "a string"),
        ("train.seed=9999999999", "an integer of at most 4294967295"),
        ("optimizer.lr=high", "a number above 0 and at most 10"),
        ("optimizer.lr=nan", "a number above 0 and at most 10"),
        ("optimizer.lr=0", "a number above 0 and at most 10"),
        ("optimizer.lr=1e300", "a number above 0 and at most 10"),
        ("optimizer.betas=[0.9,1.5]", "a list of 2 numbers of at least 0 and below 1"),
        ("optimizer.betas=[]", "a list of 2 numbers of at least 0 and below 1"),
        ("optimizer.params=3", CALL),
        ("dataloader.evaluator=null", CALL),
        ("dataloader.test.mapper=flip", CALL),
        ("dataloader.train.dataset=null", CALL),
        ("dataloader.train.mapper.augmentations=null", "a list of calls"),
        ("dataloader.test.mapper.augmentations=flip", "a list of calls"),
        ("dataloader.train.mapper.augmentations=[flip]", "a list of calls"),
        ("lr_multiplier.scheduler=true", CALL),
        ("train.seed={}", "an integer of at most 4294967295"),
        ("train.ema=true", "a group of fields (enabled, decay, warmup)"),
        ("train.device=tpu", "'', 'cpu', 'cuda' or 'cuda:1'"),
        # Modules of Detectron2, by their annotations.
        ("model.proposal_generator=null", CALL),
        ("model.proposal_generator.head=3", CALL),
        ("model.roi_heads.mask_head=foo", f"{CALL}, or none"),
        ("optimizer.fused=yes", "true or false, or none"),
        ("dataloader.train.num_workers=-1", "an integer from 0 to 1024"),
        ("dataloader.train.num_workers=100000000", "an integer from 0 to 1024"),
        ("dataloader.test.num_workers=100000000", "an integer from 0 to 1024"),
        ("dataloader.test.batch_size=0", "an integer of at least 1"),
        ("dataloader.train.total_batch_size=2.5", "an integer of at least 1"),
        ("model.roi_heads.num_classes=-3", "an integer of at least 1"),
        ("model.roi_heads.box_predictor.num_classes=-3", "an integer of at least 1"),
        ("model.roi_heads.mask_head.num_classes=null", "an integer of at least 1"),
        (f"{BACKBONE}.depths=[1,-1]", "a list of integers of at least 1"),
        ("model.pixel_std=[1,0,1]", "a list of numbers above 0"),
        ("lr_multiplier.warmup_length=2", "a number from 0 to 1"),
        # Of what the schema does not describe, as far as the type of the present value shows it.
        ("model.proposal_generator.nms_thresh=nan", "a number"),
        ("model.proposal_generator.nms_thresh=high", "a number"),
        ("model.proposal_generator.nms_thresh=true", "a number"),
        ("model.proposal_generator.nms_thresh=null", "a number"),
        ("model.proposal_generator.in_features=p2", "a list"),
        ("model.backbone.bottom_up.residual_pooling=maybe", "true or false"),
    ],
)
def test_impossible_values_are_refused(override, allowed):
    overrides = [f"+{BACKBONE}.residual_pooling=True", override]
    path, _, value = override.partition("=")
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, overrides)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{path} must be {allowed}, not ")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ("cascade_mask_rcnn", "model.roi_heads.box_predictors.1.num_classes"),
        ("retinanet", "model.num_classes"),
        ("retinanet", "model.head.num_classes"),
        ("panoptic_fpn", "model.sem_seg_head.num_classes"),
        ("classifier", "model.num_classes"),
        ("classifier", "model.classifier.num_classes"),
        ("video", "model.classifier.num_classes"),
    ],
)
def test_a_number_of_classes_is_positive_in_any_model(config, field):
    # References to the field are not named as well.
    with pytest.raises(ConfigError, match=f"^{field} must be an integer of at least 1, not 0$"):
        load_config(f"shapes/{config}_mvitv2_pico", [f"{field}=0"])


def test_a_number_of_classes_that_refers_to_an_impossible_value_is_refused():
    overrides = ["+notes.count=0", "model.roi_heads.num_classes=${notes.count}"]
    with pytest.raises(ConfigError, match=r"^model\.roi_heads\.num_classes must be .*, not 0$"):
        load_config(PICO, overrides)


def test_values_of_other_types_are_accepted_where_arguments_take_them():
    config = load_config(
        PICO,
        [
            "model.roi_heads.mask_head=null",
            "model.roi_heads.mask_in_features=null",
            "model.roi_heads.box_predictor.loss_weight={loss_cls:2.0}",
            "model.proposal_generator.nms_thresh=1",
            "dataloader.test.mapper.augmentations=[]",
            "train.max_grad_norm=${optimizer.params.layer_decay}",
        ],
    )
    assert config.model.roi_heads.mask_head is None
    assert config.model.roi_heads.box_predictor.loss_weight == {"loss_cls": 2.0}
    config = load_config(
        "mask_rcnn_mvitv2_t", ["dataloader.test.mapper.augmentations.0.short_edge_length=[640,800]"]
    )
    assert config.dataloader.test.mapper.augmentations[0].short_edge_length == [640, 800]


def test_a_target_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="optimizer._target_"):
        load_config(PICO, ["optimizer._target_=null"])


def test_a_reference_to_a_missing_field_is_named():
    with pytest.raises(ConfigError, match="train.seed .*'seeds'"):
        load_config(PICO, ["train.seed=${..seeds}"])


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, ["train.max_iters=3", "optimizer.lr=high", "train.seed=one"])
    first, *others = str(raised.value).splitlines()
    assert "3 mistakes" in first
    assert [line.split()[0] for line in others[1:]] == ["train.seed", "optimizer.lr"] or [
        line.split()[0] for line in others[1:]
    ] == ["optimizer.lr", "train.seed"]
    assert "'train.max_iters'" in others[0]


def test_arguments_that_the_config_leaves_at_their_defaults_can_be_set():
    config = load_config(
        PICO,
        [
            f"{BACKBONE}.mask_padding=True",
            f"{BACKBONE}.use_checkpoint=[scale2,scale3]",
            "dataloader.train.dataset.filter_empty=False",
            "dataloader.train.mapper.augmentations.0.prob=0.25",
            "optimizer.lr=${train.max_grad_norm}",
            "optimizer.fused=null",
            "data.train_json=x.json",
        ],
    )
    assert config.model.backbone.bottom_up.mask_padding is True
    assert config.dataloader.train.mapper.augmentations[0].prob == 0.25
    assert config.optimizer.lr == config.train.max_grad_norm
    assert config.data.train_json == "x.json"


def test_fields_can_be_added_on_purpose():
    config = load_config(
        PICO, ["+notes.author=me", "notes.author=you", "+train.ddp.static_graph=True"]
    )
    assert config.notes.author == "you"
    assert config.train.ddp.static_graph is True
    # An existing field is changed.
    assert load_config(PICO, ["++train.seed=5"]).train.seed == 5


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("train.max_iters = 3", ["'train.max_iters'", "'train.max_iter'"]),
        ("train.colour = 3", ["'train.colour'", "output_dir, init_checkpoint, "]),
        ("model.backbone.bottom_up.embd_dim = 3", [f"'{BACKBONE}.embed_dim'"]),
        (
            "dataloader.train.mapper.augmentations[0].p = 1",
            ["augmentations.0.p'", "RandomFlip takes prob, horizontal, vertical"],
        ),
        ("optimiser = optimizer; del optimizer", ["'optimizer'", "'optimiser'"]),
        ("dataloader.train.on_bad_image = '${data.policy}'", ["train.on_bad_image", "data.policy"]),
        ("model._target_ = 'nowhere.Detector'", ["model._target_", "'nowhere.Detector'"]),
        ("train = 3", ["'train'"]),
        ("train = None", ["'train'"]),
        ("train.amp = 3", ["train.amp must be a group of fields (enabled, dtype), not 3"]),
    ],
)
def test_mistakes_in_files_are_found(code, values, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        f"from detectron2.config import LazyConfig\nbase = LazyConfig.load({str(PICO)!r})\n"
        "model, dataloader, data, train = base.model, base.dataloader, base.data, base.train\n"
        f"optimizer, lr_multiplier = base.optimizer, base.lr_multiplier\ndel base\n{code}\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert [value for value in values if value not in str(raised.value)] == []
    assert "\n" not in str(raised.value)


def test_other_entries_may_hold_anything():
    config = load_config(PICO)
    config.helper = {"anything": {"goes": [1, "two"]}}
    config.data.class_names = ["cat", "犬"]
    assert find_issues(config) == []
    config = OmegaConf.create({"train": dict(config.train)}, flags={"allow_objects": True})
    assert len(find_issues(config)) == 4


class Base:
    def __init__(self, a, *, b=1):
        pass


class Inherits(Base):
    pass


class PassesOn(Inherits):
    def __init__(self, *, c, **rest):
        super().__init__(
            1,
            **rest,
        )


class Keeps(Base):
    def __init__(self, c, **rest):
        super().__init__(1, b=2)
        self.rest = rest


class PassesOnToKeeps(Keeps):
    def __init__(self, d, **rest):
        super().__init__(c=1, **rest)


class Decorated(Base):
    @functools.wraps(PassesOn.__init__)
    def __init__(self, *args, **kwargs):
        PassesOn.__init__(self, *args, **kwargs)


def test_arguments_include_those_of_parents_that_get_the_rest():
    assert arguments_of(Base) == arguments_of(Inherits) == (("a", "b"), False)
    assert arguments_of(PassesOn) == arguments_of(Decorated) == (("c", "a", "b"), False)
    # The rest goes to an unknown place.
    assert arguments_of(Keeps) == (("c",), True)
    assert arguments_of(PassesOnToKeeps) == (("d", "c"), True)
    assert arguments_of(lambda x, /, y, *z, k=1, **rest: None) == (("y", "k"), True)
    for target, some in (
        (MViTv2Backbone, {*arguments_of(MViTv2)[0], "freeze_at"}),
        (CascadeROIHeads, {"box_heads", "mask_head", "num_classes", "proposal_append_gt"}),
        (MaskRCNNConvUpsampleHead, {"input_shape", "num_classes", "conv_dims", "vis_period"}),
        (DatasetMapper, {"is_train", "augmentations", "recompute_boxes"}),
        (torch.optim.AdamW, {"params", "lr", "betas", "fused"}),
    ):
        names, is_open = arguments_of(target)
        assert some <= set(names)
        assert not is_open, target
