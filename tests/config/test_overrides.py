"""Overrides of the command line, and names of earlier releases."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog

from mvit_det.config import build_model, load_config, prepare_output_dir, rename_flags
from mvit_det.config.schema import RENAMED
from mvit_det.errors import ConfigError
from mvit_det.model_zoo import MODELS

SHAPES = Path(__file__).resolve().parents[2] / "configs" / "shapes"
PICO = SHAPES / "mask_rcnn_mvitv2_pico.py"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/jürgen/out", None),
        ("~/runs", str(Path.home() / "runs")),
        ("/data/a,b", None),
        ("/data/run (1)", None),
        ("/data/a=b", None),
        ("/data/[a]{b}'c:d", None),
        (r"C:\runs\a", None),
        ("2024", None),
        ("true", None),
        ("", None),
        ("'/data/a b'", "/data/a b"),
        ("'2024'", "2024"),
        ("${train.device}", ""),
    ],
)
def test_directories_may_have_any_name(value, expected):
    config = load_config(PICO, [f"train.output_dir={value}"])
    assert config.train.output_dir == (value if expected is None else expected)


@pytest.mark.parametrize("value", ["{}", "[]", "{a: 1}", "[a,b]", "null"])
def test_a_directory_is_no_dict_list_or_null(value):
    with pytest.raises(ConfigError, match="train.output_dir must be a string"):
        load_config(PICO, [f"train.output_dir={value}"])


@pytest.mark.parametrize("value", ["''", " ", "' '"])
def test_an_output_directory_has_a_name(value):
    with pytest.raises(ConfigError, match="it has no name"):
        prepare_output_dir(load_config(PICO, [f"train.output_dir={value}"]))


def test_the_home_directory_of_an_unknown_user_is_refused():
    with pytest.raises(ConfigError, match="~nobody-has-this-name/runs"):
        load_config(PICO, ["train.output_dir=~nobody-has-this-name/runs"])


def test_names_of_registered_datasets_may_have_any_letters():
    path = "dataloader.train.dataset.names"
    for text, names in (("jürgen (1)", "jürgen (1)"), ("[a,b]", ["a", "b"]), ("[a]", "a")):
        assert load_config(PICO, [f"{path}={text}"]).dataloader.train.dataset.names == names
    # Evaluation takes one.
    test = load_config(PICO, ["dataloader.test.dataset.names=[a]"]).dataloader
    assert test.test.dataset.names == test.evaluator.dataset_name == "a"


@pytest.mark.parametrize(
    ("config", "override"),
    [
        ("mask_rcnn_mvitv2_pico", "dataloader.test.dataset.names=[a,b]"),
        ("mask_rcnn_mvitv2_pico", "dataloader.train.dataset.names=[]"),
        ("classifier_mvitv2_pico", "dataloader.train.dataset.names=[a,b]"),
        ("video_mvitv2_pico", "dataloader.train.dataset.names=[a,b]"),
    ],
)
def test_impossible_lists_of_datasets_are_refused(config, override):
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        load_config(SHAPES / f"{config}.py", [override])


def test_classes_of_a_list_of_lvis_datasets_are_weighted(shapes_root):
    names = ["shapes_lvis_train", "shapes_lvis_val"]
    overrides = [f"dataloader.train.dataset.names=[{','.join(names)}]"]
    model = build_model(load_config(SHAPES / "mask_rcnn_mvitv2_pico_lvis.py", overrides))
    weights = model.roi_heads.box_predictor.fed_loss_cls_weights
    counts = [
        [each["image_count"] for each in MetadataCatalog.get(name).class_image_count]
        for name in names
    ]
    torch.testing.assert_close(weights, torch.tensor(counts).sum(0).sqrt())


def test_weights_of_published_models_have_names():
    config = load_config(PICO, ["train.init_checkpoint=mask_rcnn_mvitv2_t"])
    assert config.train.init_checkpoint == MODELS["mask_rcnn_mvitv2_t"].url


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.max_iter", "train.max_iter"),
        ("train.max_iter=[1", "train.max_iter=[1"),
        ("train.log_period=1,2", "train.log_period=1,2"),
        ("train.max_iter.x=3", "'train.max_iter' is 1500"),
        ("~train.seed=1", "~train.seed=1"),
        ("=5", "'=5'"),
        ("+=5", "'+=5'"),
    ],
)
def test_overrides_that_cannot_be_applied_are_named(override, value):
    with pytest.raises(ConfigError) as raised:
        load_config(PICO, [override])
    assert value in str(raised.value)
    assert "\n" not in str(raised.value)


VALUES = {
    "train.fresh_head": True,
    "train.clip_gradient_norm": 3.5,
    "train.accumulate": 4,
    "train.nonfinite_limit": 7,
    "train.parallel": "fsdp",
    "train.sheet_images": 2,
}


def check_new_names(config, caplog):
    for old, value in VALUES.items():
        group, new = RENAMED[old].split(".")
        assert config[group][new] == value
        assert old.split(".")[1] not in config[group]
        assert any(old in line and RENAMED[old] in line for line in caplog.messages)


def test_former_names_in_overrides(caplog):
    check_new_names(load_config(PICO, [f"{k}={v}" for k, v in VALUES.items()]), caplog)


def test_former_names_in_config_files(tmp_path, caplog):
    path = tmp_path / "own.py"
    lines = [f"{old} = {value!r}" for old, value in VALUES.items()]
    path.write_text(
        f"from detectron2.config import LazyConfig\nbase = LazyConfig.load({str(PICO)!r})\n"
        "model, dataloader, data, train = base.model, base.dataloader, base.data, base.train\n"
        "optimizer, lr_multiplier = base.optimizer, base.lr_multiplier\ndel base\n"
        + "\n".join(lines)
    )
    check_new_names(load_config(path), caplog)


def test_files_of_earlier_releases_get_the_defaults_of_new_fields(tmp_path, caplog):
    from detectron2.config import LazyConfig

    path = tmp_path / "config.yaml"
    LazyConfig.save(load_config(PICO), str(path))
    tree = yaml.unsafe_load(path.read_text())
    for old, value in VALUES.items():
        del tree["train"][RENAMED[old].split(".")[1]]
        tree["train"][old.split(".")[1]] = value
    del tree["train"]["ema"], tree["train"]["amp"]["dtype"], tree["data"]["category_ids"]
    path.write_text(yaml.dump(tree))
    config = load_config(path)
    check_new_names(config, caplog)
    assert config.train.ema == {"enabled": False, "decay": 0.9998, "warmup": 2000}
    assert (config.train.amp.dtype, config.data.category_ids) == ("auto", [])


def test_former_flags(caplog):
    assert rename_flags(["--accumulate", "4", "--accumulate=2", "train.accumulate=1"]) == [
        "--grad-accum-steps", "4", "--grad-accum-steps=2", "train.accumulate=1",
    ]  # fmt: skip
    assert all("--accumulate" in line and "--grad-accum-steps" in line for line in caplog.messages)
    assert len(caplog.messages) == 2
