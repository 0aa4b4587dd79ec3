"""Comparisons: what their tables hold, and one of two variants from training to files."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mvit_det.ablation import (
    TABLES,
    Result,
    Settings,
    as_json,
    compare,
    comparison,
    custom_table,
    draw,
    format_tables,
    paper_tables,
)
from mvit_det.config import load_config
from mvit_det.data import generate_shapes, register_shapes
from mvit_det.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ROOT / "configs" / "shapes" / "ablation_mvitv2.py"


def load(variant):
    return comparison._load(variant, Settings(Path("out"), device="cpu"), 1, Path("out"))


def backbone_of(config):
    return config.model.backbone.get("bottom_up") or config.model.backbone.net


@pytest.mark.parametrize("data", ["shapes", "coco"])
def test_tables_of_the_paper_hold_every_row(data):
    tables = {table.name: table.variants for table in paper_tables(TABLES, data)}
    assert {name: len(variants) for name, variants in tables.items()} == {
        "attention": 10,
        "position": 5,
        "pooling": 4,
        "scales": 4,
    }
    rows = {
        (variant.model, variant.name): backbone_of(load(variant)) for variant in tables["attention"]
    }
    found = {key: (value.attention, value.key_stride) for key, value in rows.items()}
    assert found == {
        ("ViT", "full"): ("global", 1),
        ("ViT", "window"): ("window", 1),
        ("ViT", "shifted window"): ("shifted_window", 1),
        ("ViT", "Hwin"): ("hwin", 1),
        ("ViT", "pooling"): ("global", 2),
        ("ViT", "pooling + Hwin"): ("hwin", 2),
        ("MViTv2", "pooling"): ("global", 4),
        ("MViTv2", "pooling (stride 8)"): ("global", 8),
        ("MViTv2", "pooling + shifted window"): ("shifted_window", 4),
        ("MViTv2", "pooling + Hwin"): ("hwin", 4),
    }
    positions = [backbone_of(load(variant)).position for variant in tables["position"]]
    assert positions == ["none", "absolute", "joint", "decomposed", "absolute+decomposed"]
    pooling = [backbone_of(load(variant)) for variant in tables["pooling"]]
    assert [(b.residual_pooling, b.full_query_pooling) for b in pooling] == [
        (False, False),
        (True, False),
        (True, True),
        (False, True),
    ]
    scales = [len(backbone_of(load(variant)).out_features) for variant in tables["scales"]]
    assert scales == [1, 1, 1, 4]


def test_variants_differ_in_nothing_else():
    """And each can be built."""
    for table in paper_tables(["attention", "position", "pooling"]):
        for model in ("ViT", "MViTv2"):
            rest = set()
            for variant in (v for v in table.variants if v.model == model):
                config = load(variant)
                instantiate(config.model)
                backbone = backbone_of(config)
                for override in variant.overrides:
                    backbone.pop(override.rpartition(".")[2].partition("=")[0])
                rest.add(OmegaConf.to_yaml(config))
            assert len(rest) <= 1


def test_iterations_and_seeds_are_those_of_all():
    (variant,) = custom_table([["a", str(SHAPES)]]).variants
    config = comparison._load(variant, Settings(Path("o"), 100, device="cpu"), 7, Path("o"))
    assert config.train.max_iter == 100
    assert config.train.seed == 7
    # As many iterations of warm-up as before: 50.
    assert config.lr_multiplier.warmup_length == pytest.approx(0.5 * 0.4, rel=0.01)
    config = comparison._load(variant, Settings(Path("o"), 1000, device="cpu"), 7, Path("o"))
    assert config.lr_multiplier.warmup_length == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: paper_tables(["speed"]), "there is no table 'speed'; there are attention, "),
        (lambda: paper_tables(["scales"], "lvis"), "tables on shapes and coco, not on 'lvis'"),
        (lambda: custom_table([["alone"]]), "the variant 'alone' needs a name and a config file"),
        (lambda: custom_table([["a", "x.py"], ["a", "y.py"]]), "must differ, not be a, a"),
        (lambda: Settings(Path("out"), iterations=-1), "iterations must be at least 0, not -1"),
        (lambda: Settings(Path("out"), seeds=()), r"seeds must be one or more integers .* \(\)"),
        (lambda: Settings(Path("out"), jobs=-1), "jobs must be at least 0, not -1"),
        (lambda: Settings(Path("out"), timed_images=0), "timed_images must be at least 1, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(function, message):
    with pytest.raises(ConfigError, match=message):
        function()


def make_results():
    tables = paper_tables(["attention", "pooling"])
    variants = [variant for table in tables for variant in table.variants]
    return tables, {
        variant: Result(
            metrics=({"bbox": {"AP": 10.0 + number}}, {"bbox": {"AP": 12.0 + number}}),
            parameters=2_000_000,
            multiply_adds=3e8,
            peak_memory=2**26,
            iterations=5,
            seconds_per_image=(0.01, 0.02 + number / 1000, 0.5),
        )
        for number, variant in enumerate(variants)
    }


def test_tables_as_markdown():
    tables, results = make_results()
    lines = format_tables(tables, results).splitlines()
    assert lines[0] == "### Attention"
    cells = [cell.strip() for cell in lines[5].split("|")[1:-1]]
    assert cells == [
        "ViT", "window", "12.0 (11.0–13.0)", "2.00", "0.3", "21", "64", "43.4",
    ]  # fmt: skip
    assert "### Pooling" in lines
    # Nothing was evaluated on masks.
    assert "mask AP" not in lines[2]


def test_tables_as_json():
    tables, results = make_results()
    row = json.loads(json.dumps(as_json(tables, results)))["pooling"][2]
    assert row["variant"] == "full Q + residual"
    assert row["published_box_ap_coco"] == 49.9
    assert row["box_ap"] == [22.0, 24.0]


def test_plot_has_a_panel_for_each_table(tmp_path):
    tables, results = make_results()
    draw(tables, results, tmp_path / "two.png")
    draw(tables[:1], results, tmp_path / "one.png")
    sizes = [Image.open(tmp_path / name).size for name in ("one.png", "two.png")]
    assert sizes[1][0] == 2 * sizes[0][0]


@pytest.mark.slow
def test_equal_configs_are_trained_once(monkeypatch, shapes_root, tmp_path):
    """Decomposed positions, and full with residual pooling, are the same model."""
    trained = []

    def pretend(_, variant, *__):
        trained.append(variant.name)
        return Result(({"bbox": {"AP": 1.0}},), 1, 1.0, 1, 1)

    monkeypatch.setattr(comparison, "in_own_process", pretend)
    monkeypatch.setattr(
        comparison, "_time_by_turns", lambda configs, *_: dict.fromkeys(configs, (1.0,))
    )
    tables = paper_tables(["position", "pooling"])
    lines = []
    results = compare(tables, Settings(tmp_path, device="cpu", jobs=2), lines.append)
    assert len(results) == 9
    assert len(trained) == 8
    assert lines[0] == "8 trainings, 2 at a time"


@pytest.fixture
def few_images(shapes_root, tmp_path, monkeypatch):
    """Eight images to train on and four to evaluate on, for processes of their own as well."""
    for seed, (split, count) in enumerate((("train", 8), ("val", 4))):
        generate_shapes(tmp_path / "shapes" / split, count, 128, seed)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_shapes()
    yield
    register_shapes(shapes_root)


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "tools" / "compare.py"), run_name="__main__")
    if stopped.value.code:
        raise stopped.value


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_from_training_to_files(tmp_path, monkeypatch, capsys):
    hwin = "model.backbone.bottom_up.attention=hwin"
    run_tool(
        monkeypatch, "--variant", "plain", SHAPES, "--variant", "named", SHAPES, hwin,
        "--iterations", 2, "--device", "cpu", "--output", tmp_path,
        "--opts", "model.proposal_generator.post_nms_topk=[10,10]",
    )  # fmt: skip
    printed = capsys.readouterr()
    # Both are the same model.
    assert "1 trainings, " in printed.err
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["seeds"] == [1]
    assert content["machine"]["cores"] > 0
    rows = content["tables"]["custom"]
    assert [row["variant"] for row in rows] == ["plain", "named"]
    model = instantiate(load_config(SHAPES).model)
    for row in rows:
        assert row["iterations"] == 2
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        assert row["backbone_multiply_adds"] == pytest.approx(count_multiply_adds(model.backbone))
        assert row["peak_memory_bytes"] > 0
        # The first of four images is for warming up.
        assert len(row["seconds_per_image"]) == 3
    assert (tmp_path / "comparison.md").read_text().strip() in printed.out
    assert Image.open(tmp_path / "comparison.png").size[0] > 500


def count_multiply_adds(backbone):
    """On an image of 128 pixels."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 128, 128))
    return counter.get_total_flops() / 2


def test_errors_are_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="1"):
        run_tool(monkeypatch, "--variant", "a", "missing.py")
    assert capsys.readouterr().err.startswith("error: there is no config 'missing.py'")
