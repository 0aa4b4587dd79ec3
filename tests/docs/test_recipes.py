"""The commands of docs/recipes.md, and its figures."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from mvit_det.benchmarking.memory_estimate import GIB, RESERVE, RESERVE_SHARE, total_bytes
from mvit_det.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.md"
RECIPES = ROOT / "configs" / "COCO" / "recipes"
# Of a GPU's memory, what a recipe may take.
LARGEST_SHARE = 0.85


def rows(first_cell):
    """Cells of the table whose header begins so, as dicts."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    header, _, *body = lines[start:]
    names = [cell.strip() for cell in header.strip("|").split("|")]
    for line in body:
        if not line.startswith("|"):
            break
        yield dict(zip(names, (cell.strip().strip("`") for cell in line.strip("|").split("|"))))


def test_recipes_are_what_the_page_says():
    table = {row["recipe"]: row for row in rows("recipe")}
    assert sorted(table) == sorted(path.stem for path in RECIPES.glob("*.py"))
    for name, row in table.items():
        config = load_config(RECIPES / f"{name}.py")
        batch, steps = config.dataloader.train.total_batch_size, config.train.grad_accum_steps
        assert row["micro-batch × accumulation = batch"] == f"{batch // steps} × {steps} = {batch}"
        assert float(row["learning rate"]) == pytest.approx(config.optimizer.lr)
        assert int(row["iterations"].replace(",", "")) == config.train.max_iter
        assert int(row["epochs"]) * 120_000 == config.train.max_iter * batch
        assert row["GPU"] == f"{re.search('_([0-9]+)gb', name)[1]} GB"


def test_estimates_add_up_and_leave_memory_free():
    summary = {row["recipe"]: row for row in rows("recipe")}
    estimates = {row.pop("config"): row for row in rows("config")}
    assert sorted(estimates) == sorted(summary)
    for name, row in estimates.items():
        total = float(row.pop("all (GiB)"))
        assert summary[name]["estimated memory"] == f"{total} GiB"
        assert total <= LARGEST_SHARE * float(summary[name]["GPU"].removesuffix(" GB"))
        images, each = map(float, row.pop("images × each").split(" × "))
        reserve = float(row.pop("reserve"))
        counted = images * each + sum(map(float, row.values()))
        assert reserve == pytest.approx(RESERVE / GIB + RESERVE_SHARE * counted, abs=0.02)
        assert total == pytest.approx(counted + reserve, abs=0.1)
        config = load_config(RECIPES / f"{name}.py")
        assert images * config.train.grad_accum_steps == config.dataloader.train.total_batch_size
        with torch.device("meta"):
            model = instantiate(config.model)
        assert float(row["parameters"]) == round(total_bytes(model.parameters()) / GIB, 2)


@pytest.mark.slow
def test_commands(run_text, write_parts, tmp_path, capsys):
    write_parts(tmp_path)
    # A small model in the place of the page's, smaller images to estimate its memory for, fewer
    # epochs, and one evaluation instead of one for each of them.
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    coco = tmp_path / "configs" / "COCO"
    pico = coco.parent / "shapes" / "mask_rcnn_mvitv2_pico.py"
    shutil.copy(pico, coco / "mask_rcnn_mvitv2_t.py")
    for recipe in (coco / "recipes").glob("*.py"):
        if recipe.stem != "mask_rcnn_mvitv2_t_12gb":
            recipe.unlink()
    text = PAGE.read_text(encoding="utf-8")
    for big, small in (
        ("--size 1250 1333", "--size 125 133"),
        ("--epochs 12", "--epochs 7"),
        ("output/parts", "output/parts train.eval_period=0 train.visualized_images=0"),
    ):
        assert text.count(big) == 1
        text = text.replace(big, small)

    trained, estimated = run_text(text, tmp_path)

    assert "Schedule: 7 iterations of 8 images in 4 micro-batch(es) per rank" in trained
    saved = torch.load(tmp_path / "output" / "parts" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 6
    for folder in ("evaluation", "evaluation_ema"):
        assert (tmp_path / "output" / "parts" / folder / "metrics.json").exists()
    assert re.search(r"\| mask_rcnn_mvitv2_t_12gb .* 2 × 0\.\d\d ", estimated)
    assert "Estimated, not measured on a GPU" in estimated
    # The comment behind the page's `print` shows the same.
    assert capsys.readouterr().out == "[778, 89]\n"
