import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import OmegaConf

from mvit_det.checkpoint import Checkpointer
from mvit_det.config import load_config, resolve_device, set_custom_dataset, use_custom_dataset
from mvit_det.data import generate_shapes
from mvit_det.engine import evaluate_checkpoint, train
from mvit_det.errors import CheckpointError, ConfigError, DatasetError
from mvit_det.evaluation import COCOEvaluator

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
PICO = CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico.py"
CASCADE = CONFIGS / "shapes" / "cascade_mask_rcnn_mvitv2_pico.py"
FASTER = CONFIGS / "shapes" / "faster_rcnn_mvitv2_pico.py"
RETINANET = CONFIGS / "shapes" / "retinanet_mvitv2_pico.py"
LVIS = CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico_lvis.py"
# All of configs/ but the modules that they share.
EXPERIMENTS = sorted(p for p in CONFIGS.glob("*/**/*.py") if "common" not in p.parts)
# Three classes made of five, with gaps between their ids.
CLASSES = {1: 10, 2: 10, 3: 20, 4: 20, 5: 70}
NAMES = {10: "bolt", 20: "nut", 70: "washer"}


def write(folder, change=lambda dataset: None):
    """The annotations of a folder of shapes with three classes, changed; returns the file."""
    dataset = json.loads((folder / "annotations.json").read_text())
    for annotation in dataset["annotations"]:
        annotation["category_id"] = CLASSES[annotation["category_id"]]
    dataset["categories"] = [{"id": number, "name": name} for number, name in NAMES.items()]
    change(dataset)
    path = folder / "own.json"
    path.write_text(json.dumps(dataset))
    return path


@pytest.fixture
def own(tmp_path):
    """Folders `train` and `val`, each with images/ and own.json."""
    for name, seed in (("train", 0), ("val", 1)):
        generate_shapes(tmp_path / name, 4, 64, seed)
        write(tmp_path / name)
    return tmp_path


def paths(own):
    return dict(
        train_json=own / "train" / "own.json",
        train_images=own / "train" / "images",
        val_json=own / "val" / "own.json",
        val_images=own / "val" / "images",
    )


def make_config(own, *overrides, path=PICO):
    config = load_config(path, [f"train.output_dir={own}/output", *overrides])
    set_custom_dataset(config, **paths(own))
    return config


def class_counts(model):
    return {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if "cls_score.weight" in name or "mask_head.predictor.weight" in name
    }


def test_nothing_happens_without_custom_dataset(own):
    config = load_config(PICO, [])
    before = OmegaConf.to_container(config)
    set_custom_dataset(config, train_json=None, val_json=None)
    use_custom_dataset(config)
    assert OmegaConf.to_container(config) == before
    del config.data
    use_custom_dataset(config)
    assert "data" not in config


@pytest.mark.parametrize("path", [PICO, CASCADE], ids=["mask", "cascade"])
def test_a_config_is_fitted_to_the_data(path, own):
    config = make_config(own, path=path)
    use_custom_dataset(config)
    assert list(config.data.class_names) == ["bolt", "nut", "washer"]
    assert list(config.data.category_ids) == [10, 20, 70]
    counts = class_counts(instantiate(config.model))
    scores = [shape[0] for name, shape in counts.items() if "cls_score" in name]
    assert scores == [4] * (3 if path == CASCADE else 1)
    assert counts["roi_heads.mask_head.predictor.weight"][0] == 3
    train, test = (config.dataloader[split].dataset.names for split in ("train", "test"))
    assert train != test
    assert config.dataloader.evaluator.dataset_name == test
    for name, folder in ((train, "train"), (test, "val")):
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == ["bolt", "nut", "washer"]
        assert metadata.thing_dataset_id_to_contiguous_id == {10: 0, 20: 1, 70: 2}
        assert metadata.image_root == str(own / folder / "images")
    assert len(instantiate(config.dataloader.test.dataset)) == 4
    before = OmegaConf.to_container(config)
    use_custom_dataset(config)
    assert OmegaConf.to_container(config) == before


def test_numbers_of_classes_that_are_written_out_are_set(own):
    """As in users' configs, where each head may have its own."""
    config = make_config(own)
    heads = config.model.roi_heads
    heads.box_predictor.num_classes = heads.mask_head.num_classes = 5
    use_custom_dataset(config)
    assert heads.num_classes == heads.box_predictor.num_classes == heads.mask_head.num_classes == 3


def test_a_model_without_classes_is_refused(own):
    config = make_config(own)
    config.model = {"backbone": {"num_classes": 4}}
    with pytest.raises(ConfigError, match="num_classes"):
        use_custom_dataset(config)


@pytest.mark.parametrize("evaluate_only", [True, False])
def test_a_panoptic_model_is_refused(evaluate_only, own):
    config = make_config(own, path=CONFIGS / "shapes" / "panoptic_fpn_mvitv2_pico.py")
    with pytest.raises(ConfigError, match="semantic map"):
        use_custom_dataset(config, evaluate_only=evaluate_only)


def class_numbers(node):
    """Each `num_classes` in a config, by its path."""
    fields = OmegaConf.to_container(node, resolve=True)
    waiting, found = [("model", fields)], {}
    while waiting:
        name, value = waiting.pop()
        if name.endswith(".num_classes"):
            found[name] = value
        elif isinstance(value, (dict, list)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{key}", inner) for key, inner in items]
    return found


@pytest.mark.parametrize(
    "path", EXPERIMENTS, ids=[str(path.relative_to(CONFIGS)) for path in EXPERIMENTS]
)
def test_every_config_is_fitted_or_refused(path, own):
    config = make_config(own, "train.init_checkpoint=", path=path)
    if "classifier" in config.model or "sem_seg_head" in config.model:
        with pytest.raises(ConfigError) as caught:
            use_custom_dataset(config)
        assert "\n" not in str(caught.value)
        return
    use_custom_dataset(config)
    assert set(class_numbers(config.model).values()) == {3}
    assert config.dataloader.evaluator._target_ is COCOEvaluator
    assert config.train.init_checkpoint == ""


def test_images_for_training_and_evaluation(own, caplog):
    use_custom_dataset(make_config(own))
    assert "trained on" not in caplog.text
    (own / "link").symlink_to(own / "train" / "images")
    config = make_config(own)
    config.data.update(val_json=config.data.train_json, val_images=str(own / "link"))
    use_custom_dataset(config)
    assert "4 of the 4 images for evaluation are also trained on" in caplog.text


def test_crowds_alone_are_refused_in_training(own):
    def merge(dataset):
        for annotation in dataset["annotations"]:
            annotation["iscrowd"] = 1

    write(own / "val", merge)
    use_custom_dataset(make_config(own))
    write(own / "train", merge)
    with pytest.raises(DatasetError, match="no object but crowds"):
        use_custom_dataset(make_config(own))


@pytest.mark.parametrize("path", [PICO, CASCADE], ids=["mask", "cascade"])
def test_without_masks_the_mask_head_is_taken_out(path, own, caplog):
    def drop_masks(dataset):
        for annotation in dataset["annotations"]:
            if not annotation["iscrowd"]:
                del annotation["segmentation"]

    write(own / "train", drop_masks)
    config = make_config(own, path=path)
    config.dataloader.train.mapper.recompute_boxes = True
    use_custom_dataset(config)
    assert "has boxes and no masks: the model is trained without a mask head" in caplog.text
    model = instantiate(config.model)
    assert not model.roi_heads.mask_on
    batch = next(iter(instantiate(config.dataloader.train)))
    assert not any(sample["instances"].has("gt_masks") for sample in batch)


def test_masks_as_run_lengths_are_bitmaps(own):
    def encode(dataset):
        first = next(each for each in dataset["annotations"] if not each["iscrowd"])
        first["segmentation"] = {"size": [64, 64], "counts": [70, 20, 64 * 64 - 90]}

    write(own / "train", encode)
    config = make_config(own)
    use_custom_dataset(config)
    assert config.dataloader.train.mapper.instance_mask_format == "bitmask"
    batch = next(iter(instantiate(config.dataloader.train)))
    assert batch[0]["instances"].gt_masks.tensor.dtype == torch.bool


@pytest.mark.parametrize(
    ("missing", "given", "reason"),
    [
        ("val_json", "train-json", "a training is evaluated"),
        ("val_images", "train-json", "a training is evaluated"),
        ("train_images", "train-json", "annotations and images"),
        ("train_json", "train-images", "annotations and images"),
    ],
)
def test_a_missing_path_is_asked_for(missing, given, reason, own):
    config = make_config(own)
    config.data[missing] = ""
    flag = "--" + missing.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"--{given} needs {flag} .*: {reason}"):
        use_custom_dataset(config)


def test_a_missing_folder_is_named(own):
    shutil.rmtree(own / "val" / "images")
    with pytest.raises(DatasetError, match="val/images'; check --val-images"):
        use_custom_dataset(make_config(own))


def test_errors_of_the_data_are_raised_and_warnings_logged(own, caplog):
    def spoil(dataset):
        dataset["annotations"][0]["bbox"] = [1, 2, -3, 4]

    write(own / "train", spoil)
    with pytest.raises(DatasetError, match=r"error: box with a negative size: 1 \(annotation 1: "):
        use_custom_dataset(make_config(own))
    write(own / "train")
    write(own / "val", lambda dataset: dataset["annotations"].clear())
    use_custom_dataset(make_config(own))
    assert "warning: no object is annotated" in caplog.text


def test_different_categories_are_told_apart(own):
    def rename(dataset):
        dataset["categories"][1]["name"] = "screw"

    write(own / "val", rename)
    train, val = (own / name / "own.json" for name in ("train", "val"))
    with pytest.raises(DatasetError) as raised:
        use_custom_dataset(make_config(own))
    assert f"only in '{train}': 'nut'; only in '{val}': 'screw'" in str(raised.value)

    def reorder(dataset):
        names = [category["name"] for category in dataset["categories"]]
        for category, name in zip(dataset["categories"], reversed(names)):
            category["name"] = name

    write(own / "val", reorder)
    with pytest.raises(DatasetError, match="order"):
        use_custom_dataset(make_config(own))


@pytest.mark.parametrize("path", [PICO, CASCADE, RETINANET], ids=lambda path: path.stem)
def test_weights_for_other_classes_get_a_reset_head(path, own, caplog):
    weights = own / "weights.pth"
    five = instantiate(load_config(path).model)
    torch.save({"model": five.state_dict()}, weights)
    config = make_config(own, f"train.init_checkpoint={weights}", path=path)
    use_custom_dataset(config)
    assert config.train.reset_head
    assert str(weights) in caplog.text

    # The class layers are reset, and no others.
    model = instantiate(config.model)
    checkpointer = Checkpointer(model, reset_head=True)
    checkpointer.resume_or_load(weights, resume=False)
    before, after = five.state_dict(), model.state_dict()
    differing = {
        name
        for name in after
        if before[name].shape != after[name].shape or not before[name].equal(after[name])
    }
    reset = {name.rpartition(".")[0] for name in differing}
    assert reset == {
        PICO: {f"roi_heads.{name}" for name in (
            "box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")},
        CASCADE: {*(f"roi_heads.box_predictor.{stage}.cls_score" for stage in range(3)),
                  "roi_heads.mask_head.predictor"},
        RETINANET: {"head.cls_score"},
    }[path]  # fmt: skip

    three = model.state_dict()
    for names, is_reset in ((["bolt", "nut", "washer"], False), (["a", "b", "c"], True)):
        torch.save({"model": three, "class_names": names}, weights)
        config.train.reset_head = False
        use_custom_dataset(config)
        assert config.train.reset_head == is_reset


def test_a_retinanet_for_other_classes_is_refused_with_their_numbers(own):
    weights = own / "weights.pth"
    config = load_config(RETINANET)
    torch.save({"model": instantiate(config.model).state_dict()}, weights)
    config.model.num_classes = 3
    with pytest.raises(CheckpointError, match="file has 5 classes, config has 3"):
        Checkpointer(instantiate(config.model)).resume_or_load(weights, resume=False)


def test_weights_are_not_looked_at_where_they_do_not_count(own):
    config = make_config(own, "train.init_checkpoint=nowhere.pth")
    with pytest.raises(CheckpointError, match="nowhere.pth"):
        use_custom_dataset(config)
    use_custom_dataset(config, evaluate_only=True)
    (own / "output").mkdir()
    torch.save({}, own / "output" / "model_0000001.pth")
    use_custom_dataset(config, resume=True)


def test_evaluation_needs_no_training_data(own):
    config = make_config(own)
    shutil.rmtree(own / "train")
    use_custom_dataset(config, evaluate_only=True)
    assert config.model.roi_heads.num_classes == 3
    config.data.class_names = ["bolt", "nut", "screw"]
    with pytest.raises(DatasetError, match="only in .*: 'screw'; only in .*: 'washer'"):
        use_custom_dataset(config, evaluate_only=True)


@pytest.mark.parametrize("path", [PICO, CASCADE], ids=["mask", "cascade"])
def test_boxes_alone_start_from_weights_with_a_mask_head(path, own, caplog):
    """The mask head of the weights is dropped."""
    weights = own / "five.pth"
    torch.save({"model": instantiate(load_config(path, []).model).state_dict()}, weights)
    write(own / "train", lambda dataset: [a.pop("segmentation") for a in dataset["annotations"]])
    config = make_config(own, f"train.init_checkpoint={weights}", path=path)
    use_custom_dataset(config)
    model = instantiate(config.model)
    with caplog.at_level("INFO"):
        checkpointer = Checkpointer(model, reset_head=config.train.reset_head)
        checkpointer.resume_or_load(weights, resume=False)
    assert re.search(r"dropped on purpose +\d+ +mask head", caplog.text)


def test_trains_and_evaluates_again_from_the_saved_config(own):
    """In one process; docs/custom-datasets.md is run in several."""
    config = make_config(own, "train.max_iter=2", "train.device=cpu")
    use_custom_dataset(config)
    resolve_device(config)
    output = own / "output"
    output.mkdir()
    LazyConfig.save(config, str(output / "config.yaml"))
    train(config)
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert checkpoint["class_names"] == ["bolt", "nut", "washer"]
    assert checkpoint["category_ids"] == [10, 20, 70]
    assert checkpoint["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0] == 4
    results = output / "evaluation" / "coco_instances_results.json"
    at_the_end = json.loads(results.read_text())
    assert {result["category_id"] for result in at_the_end} <= set(NAMES)
    assert (output / "evaluation" / "predictions.png").exists()

    results.unlink()
    shutil.rmtree(own / "train")
    weights = f"train.init_checkpoint={output}/model_final.pth"
    config = load_config(output / "config.yaml", [weights])
    use_custom_dataset(config, evaluate_only=True)
    evaluate_checkpoint(config)
    assert json.loads(results.read_text()) == at_the_end


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "masks", "tasks"),
    [
        (CASCADE, False, {"bbox"}),
        (FASTER, True, {"bbox"}),
        (RETINANET, True, {"bbox"}),
        (LVIS, True, {"bbox", "segm"}),
    ],
    ids=["boxes", "faster_rcnn", "retinanet", "lvis"],
)
def test_other_detectors_train(path, masks, tasks, own):
    if not masks:
        for name in ("train", "val"):
            write(own / name, lambda data: [a.pop("segmentation") for a in data["annotations"]])
    config = make_config(own, "train.max_iter=1", "train.device=cpu", path=path)
    use_custom_dataset(config)
    resolve_device(config)
    assert set(train(config)) == tasks
    # And are evaluated from the saved config.
    LazyConfig.save(config, str(own / "config.yaml"))
    weights = f"train.init_checkpoint={own}/output/model_final.pth"
    config = load_config(own / "config.yaml", [weights])
    use_custom_dataset(config, evaluate_only=True)
    assert set(evaluate_checkpoint(config)) == tasks


@pytest.mark.slow
@pytest.mark.usefixtures("shapes_root")
def test_lists_of_datasets_train(tmp_path):
    overrides = [
        "dataloader.train.dataset.names=[shapes_val,shapes_train]",
        "dataloader.test.dataset.names=[few]",
        f"train.output_dir={tmp_path}",
        "train.max_iter=1",
        "train.device=cpu",
    ]
    generate_shapes(tmp_path / "few", 2, 64, 0)
    folder = tmp_path / "few"
    register_coco_instances("few", {}, str(folder / "annotations.json"), str(folder / "images"))
    try:
        config = load_config(PICO, overrides)
        resolve_device(config)
        assert set(train(config)) == {"bbox", "segm"}
    finally:
        DatasetCatalog.remove("few")
        MetadataCatalog.remove("few")
