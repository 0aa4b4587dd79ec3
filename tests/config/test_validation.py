"""Mistakes in configs, and what is said about them."""

from pathlib import Path

import pytest
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from mvit_det.config import load_config
from mvit_det.config.validation import find_issues
from mvit_det.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PICO = CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico.py"
ALL = sorted([*(CONFIGS / "COCO").glob("*.py"), *(CONFIGS / "shapes").glob("*.py")])


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_configs_have_no_mistakes(path, tmp_path):
    config = load_config(path)
    # Nor have they as the YAML files that a training leaves.
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    load_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_iters=3", "unknown field 'train.max_iters'; did you mean 'train.max_iter'?"),
        ("train.amp.dtpe=x", "unknown field 'train.amp.dtpe'; did you mean 'train.amp.dtype'?"),
        ("optimzer.lr=1", "unknown field 'optimzer.lr'; did you mean 'optimizer.lr'?"),
        ("lr=1", "unknown field 'lr'; did you mean 'optimizer.lr'?"),
        (
            "bottom_up.embed_dim=64",
            "unknown field 'bottom_up.embed_dim'; did you mean "
            "'model.backbone.bottom_up.embed_dim'?",
        ),
        (
            "model.backbone.bottom_up.emded_dim=3",
            "unknown field 'model.backbone.bottom_up.emded_dim'; did you mean "
            "'model.backbone.bottom_up.embed_dim'?",
        ),
        (
            # Which the config leaves to its default.
            "model.backbone.bottom_up.mask_paddding=True",
            "unknown field 'model.backbone.bottom_up.mask_paddding'; did you mean "
            "'model.backbone.bottom_up.mask_padding'?",
        ),
        (
            "model.roi_heads.num_clases=5",
            "unknown field 'model.roi_heads.num_clases'; did you mean "
            "'model.roi_heads.num_classes'?",
        ),
        ("data.train_jsn=x", "unknown field 'data.train_jsn'; did you mean 'data.train_json'?"),
        (
            "train.favourite_colour=blue",
            "unknown field 'train.favourite_colour'; to add it on purpose, write "
            "'+train.favourite_colour=…'",
        ),
        (
            "dataloader.train.mapper.augmentations.7.prob=1",
            "unknown field 'dataloader.train.mapper.augmentations.7.prob': "
            "'dataloader.train.mapper.augmentations' is a list of 1, numbered from 0",
        ),
        ("train.max_iter=ten", "train.max_iter must be an integer, not 'ten'"),
        ("train.max_iter=1e4", "train.max_iter must be an integer, not 10000.0"),
        (
            "train.grad_accum_steps=0",
            "train.grad_accum_steps must be an integer of at least 1, not 0",
        ),
        ("train.compile=yes", "train.compile must be true or false, not 'yes'"),
        ("train.strategy=dp", "train.strategy must be 'ddp' or 'fsdp', not 'dp'"),
        (
            "train.ema.decay=1",
            "train.ema.decay must be a number of at least 0 and below 1, not 1",
        ),
        ("train.amp=False", "train.amp must be a group of fields (enabled, dtype), not False"),
        ("optimizer.lr=high", "optimizer.lr must be a number, not 'high'"),
        ("optimizer.fused=yes", "optimizer.fused must be true or false, not 'yes'"),
        (
            "train.seed=${..seeds}",
            "train.seed refers to what is not there: Interpolation key 'seeds' not found",
        ),
        ("~train.seed=1", "cannot apply ~train.seed=1: fields cannot be removed"),
    ],
)
def test_wrong_changes_get_one_sentence(override, message):
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, [override])
    assert str(raised.value) == message


def test_all_mistakes_are_named_at_once():
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, ["train.max_iters=3", "optimizer.lr=high", "train.seed=one"])
    assert str(raised.value).splitlines() == [
        "the config has 3 mistakes:",
        "  unknown field 'train.max_iters'; did you mean 'train.max_iter'?",
        "  optimizer.lr must be a number, not 'high'",
        "  train.seed must be an integer, not 'one'",
    ]


def test_arguments_that_the_config_leaves_to_their_defaults_can_be_set():
    config = load_config(
        PICO,
        [
            "model.backbone.bottom_up.mask_padding=True",
            "model.backbone.bottom_up.use_checkpoint=[scale2,scale3]",
            "dataloader.train.dataset.min_keypoints=0",
            "dataloader.train.mapper.augmentations.0.prob=0.25",
            "dataloader.train.dataset.names=[shapes_train,shapes_val]",
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
    # Where it is there already, it is changed.
    assert load_config(PICO, ["++train.seed=5"]).train.seed == 5


@pytest.fixture
def mistaken(tmp_path):
    """A function from lines of code to the message about a config file that ends with them."""

    def message(*lines):
        path = tmp_path / "own.py"
        path.write_text(
            "from detectron2.config import LazyConfig\n"
            f"config = LazyConfig.load({str(PICO)!r})\n"
            "model, dataloader, data = config.model, config.dataloader, config.data\n"
            "optimizer, lr_multiplier = config.optimizer, config.lr_multiplier\n"
            "train = config.train\n"
            "del config\n" + "\n".join(lines) + "\n"
        )
        with pytest.raises(ConfigError) as raised:
            load_config(path)
        return str(raised.value)

    return message


def test_mistakes_in_files_are_found(mistaken):
    assert mistaken("train.max_iters = 3") == (
        "unknown field 'train.max_iters'; did you mean 'train.max_iter'?"
    )
    assert mistaken("train.colour = 3").startswith(
        "unknown field 'train.colour'; train has output_dir, init_checkpoint, "
    )
    assert mistaken("model.backbone.bottom_up.embd_dim = 3") == (
        "unknown field 'model.backbone.bottom_up.embd_dim'; did you mean "
        "'model.backbone.bottom_up.embed_dim'?"
    )
    assert mistaken("dataloader.train.mapper.augmentations[0].p = 1") == (
        "unknown field 'dataloader.train.mapper.augmentations.0.p'; RandomFlip takes prob, "
        "horizontal, vertical"
    )
    assert mistaken("optimiser = optimizer", "del optimizer") == (
        "the config has no 'optimizer'; is it 'optimiser'?"
    )
    assert mistaken("del data", "dataloader.test.on_bad_image = 'skip'") == (
        "dataloader.train.on_bad_image refers to what is not there: Interpolation key "
        "'data.on_bad_image' not found"
    )
    assert mistaken("model._target_ = 'nowhere.Detector'") == (
        "model._target_ is 'nowhere.Detector', which cannot be imported"
    )
    assert mistaken("train = dict(train)", "train.pop('ema')", "train['amp'].pop('dtype')") == (
        "the config has 2 mistakes:\n"
        "  the config has no train.amp.dtype; configs/common/train.py holds all fields with their "
        "defaults\n"
        "  the config has no train.ema; configs/common/train.py holds all fields with their "
        "defaults"
    )


def test_other_entries_may_hold_anything():
    config = load_config(PICO)
    config.helper = {"anything": {"goes": [1, "two"]}}
    config.data.class_names = ["cat", "犬"]
    assert find_issues(config) == []
    config.data.class_names = [1]
    assert find_issues(config) == ["data.class_names must be a list of strings, not [1]"]
    config = OmegaConf.create({"train": dict(config.train)}, flags={"allow_objects": True})
    assert find_issues(config) == [
        f"the config has no '{name}'"
        for name in ("model", "dataloader", "optimizer", "lr_multiplier")
    ]
