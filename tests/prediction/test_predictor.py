"""Predictions: equal to those of an evaluation, with the right names, and refused for bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from mvit_det import Predictor, model_zoo
from mvit_det.checkpoint import Checkpointer
from mvit_det.checkpoint.download import cache_path
from mvit_det.config import load_config, resolve_device
from mvit_det.data.images import read_image
from mvit_det.engine import evaluate_checkpoint
from mvit_det.errors import CheckpointError, ConfigError, DeviceError, ImageError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PICO = CONFIGS / "shapes" / "mask_rcnn_mvitv2_pico.py"
CASCADE = CONFIGS / "shapes" / "cascade_mask_rcnn_mvitv2_pico.py"
COLOURS = ["red", "green", "blue", "white", "black"]


def make_config(*overrides, path=PICO):
    """A config whose random weights find something: every score counts."""
    config = load_config(path, [*overrides, "train.visualized_images=0"])
    heads = config.model.roi_heads
    for predictor in heads.get("box_predictors") or [heads.box_predictor]:
        predictor.test_score_thresh = 0.0
    return config


def make_weights(config, folder, **options):
    torch.manual_seed(0)
    Checkpointer(instantiate(config.model), folder, **options).save("model")
    return folder / "model.pth"


@pytest.fixture(scope="module")
def pico(tmp_path_factory):
    """Config and weights without names of classes."""
    config = make_config()
    return config, make_weights(config, tmp_path_factory.mktemp("pico"))


@pytest.fixture(scope="module")
def predictor(pico):
    return Predictor(*pico, device="cpu")


def random_image(height=96, width=128, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def assert_same(first, second):
    """Instances are equal to the last bit."""
    assert first.image_size == second.image_size
    assert first.get_fields().keys() == second.get_fields().keys()
    assert torch.equal(first.pred_boxes.tensor, second.pred_boxes.tensor)
    for name in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(first.get(name), second.get(name)), name


def evaluate(config, weights, output):
    """Evaluates as the training tool does, and returns COCO's results by id of the image."""
    config.train.update(output_dir=str(output), init_checkpoint=str(weights))
    resolve_device(config, "cpu")
    evaluate_checkpoint(config)
    results = json.loads((output / "evaluation" / "coco_instances_results.json").read_text())
    of_image = {}
    for result in results:
        of_image.setdefault(result["image_id"], []).append(result)
    return of_image


@pytest.mark.parametrize(
    ("path", "image_format"), [(PICO, "RGB"), (CASCADE, "BGR")], ids=["mask_rcnn", "cascade"]
)
def test_numbers_are_those_of_an_evaluation(path, image_format, shapes_root, tmp_path, monkeypatch):
    """Its whole way is run: loader, model, evaluator and the file it writes."""
    load = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: load(name)[:5])
    config = make_config(
        f"dataloader.train.mapper.image_format={image_format}",
        "dataloader.test.mapper.augmentations="
        "[{_target_: detectron2.data.transforms.ResizeShortestEdge, short_edge_length: 100}]",
        path=path,
    )
    weights = make_weights(config, tmp_path)
    expected = evaluate(config, weights, tmp_path)
    records = DatasetCatalog.get("shapes_val")
    predictions = Predictor(config, weights, device="cpu")([r["file_name"] for r in records])
    assert len(records) == len(predictions) == 5
    for record, prediction in zip(records, predictions):
        found = prediction.to_coco(record["image_id"])
        assert len(found) > 20
        assert len({result["category_id"] for result in found}) > 1
        assert found == expected[record["image_id"]]


def test_real_images_of_many_sizes_get_the_numbers_of_an_evaluation(coco_sample, tmp_path):
    annotations = coco_sample / "coco" / "annotations" / "instances_val2017.json"
    dataset = json.loads(annotations.read_text())
    dataset["images"] = dataset["images"][:5]
    kept = {image["id"] for image in dataset["images"]}
    dataset["annotations"] = [a for a in dataset["annotations"] if a["image_id"] in kept]
    (tmp_path / "some.json").write_text(json.dumps(dataset))
    name, folder = "coco_for_predictions", coco_sample / "coco" / "val2017"
    register_coco_instances(name, {}, str(tmp_path / "some.json"), str(folder))
    try:
        config = make_config(
            f"dataloader.test.dataset.names={name}",
            "model.roi_heads.num_classes=80",
            "dataloader.test.mapper.augmentations=[{_target_: "
            "detectron2.data.transforms.ResizeShortestEdge, short_edge_length: 96, max_size: 160}]",
        )
        weights = make_weights(config, tmp_path)
        predictor = Predictor(config, weights, device="cpu")
        # The file of annotations has not been loaded as a dataset yet.
        assert predictor.class_names[:2] == ("class 0", "class 1")
        expected = evaluate(config, weights, tmp_path)
        assert Predictor(config, weights, device="cpu").class_names[:2] == ("person", "bicycle")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    paths = [folder / image["file_name"] for image in dataset["images"]]
    predictions = predictor(paths)
    sizes = {prediction.image.shape for prediction in predictions}
    assert len(sizes) > 2
    for image, path, prediction in zip(dataset["images"], paths, predictions):
        assert prediction.to_coco(image["id"]) == expected[image["id"]]
        assert prediction.instances.image_size == (image["height"], image["width"])
        # One by one, from the file or as an array, they are the same.
        assert_same(predictor(read_image(path)).instances, prediction.instances)
    ids = {result["category_id"] for results in expected.values() for result in results}
    assert max(ids) > 80  # COCO's 80 classes have ids up to 90


def test_images_of_a_size_share_a_batch(pico, predictor):
    """In any order, and none is padded for the sake of another."""
    sizes = [(64, 96), (96, 64), (64, 96), (64, 96), (70, 90), (96, 64)]
    images = [random_image(*size, seed) for seed, size in enumerate(sizes)]
    batched = Predictor(*pico, device="cpu", batch_size=2)
    seen = []
    hook = batched.model.register_forward_pre_hook(
        lambda _, inputs: seen.append([tuple(item["image"].shape[1:]) for item in inputs[0]])
    )
    predictions = batched(images)
    hook.remove()
    assert seen == [[(64, 96)] * 2, [(64, 96)], [(96, 64)] * 2, [(70, 90)]]
    for image, prediction in zip(images, predictions):
        assert prediction.image is image
        alone = predictor(image).instances
        together = prediction.instances
        # Batches change the rounding, and with it the order of equally bad guesses.
        assert len(together) == len(alone)
        assert (together.scores - alone.scores).abs().max() < 1e-5
    assert predictor([]) == []


def test_a_path_a_text_and_an_array_are_the_same(predictor, tmp_path):
    image = random_image()
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = predictor(image)
    assert np.array_equal(expected.image, image)
    for source in (tmp_path / "image.png", str(tmp_path / "image.png")):
        prediction = predictor(source)
        assert np.array_equal(prediction.image, image)
        assert_same(prediction.instances, expected.instances)
    (from_tuple,) = predictor((image,))
    assert_same(from_tuple.instances, expected.instances)


def test_arrays_are_rgb_whatever_order_the_model_takes(pico, tmp_path):
    config, weights = pico
    config = make_config("dataloader.train.mapper.image_format=BGR")
    # Reads the planes the other way round and normalises them so: the same model for BGR.
    state = torch.load(weights, weights_only=True)
    kernel = state["model"]["backbone.bottom_up.patch_embed.proj.weight"]
    state["model"]["backbone.bottom_up.patch_embed.proj.weight"] = kernel.flip(1)
    torch.save(state, tmp_path / "bgr.pth")
    config.model.pixel_mean = config.model.pixel_mean[::-1]
    config.model.pixel_std = config.model.pixel_std[::-1]
    image = random_image()
    rgb = Predictor(*pico, device="cpu")(image).instances
    bgr = Predictor(config, tmp_path / "bgr.pth", device="cpu")(image).instances
    swapped = Predictor(*pico, device="cpu")(image[:, :, ::-1]).instances
    assert (bgr.scores - rgb.scores).abs().max() < 1e-5
    assert len(swapped) != len(rgb) or (swapped.scores - rgb.scores).abs().max() > 1e-4


def test_score_threshold(pico, predictor, shapes_root):
    image = random_image()
    every = predictor(image).instances
    threshold = every.scores.median().item()
    some = Predictor(*pico, device="cpu", score_threshold=threshold)(image).instances
    assert 0 < len(some) < len(every)
    expected = every[every.scores > threshold]
    assert torch.equal(some.scores, expected.scores)
    assert torch.equal(some.pred_boxes.tensor, expected.pred_boxes.tensor)
    # Without one the config decides, which is left as it was.
    config = pico[0].copy()
    config.model.roi_heads.box_predictor.test_score_thresh = threshold
    before = config.copy()
    assert_same(Predictor(config, pico[1], device="cpu")(image).instances, some)
    assert config == before


def test_score_threshold_of_a_cascade(tmp_path):
    config = make_config(path=CASCADE)
    weights = make_weights(config, tmp_path)
    every = Predictor(config, weights, device="cpu")(random_image()).instances.scores
    threshold = every.median().item()
    some = Predictor(config, weights, device="cpu", score_threshold=threshold)(random_image())
    assert torch.equal(some.instances.scores, every[every > threshold])


def test_nothing_is_found(pico):
    prediction = Predictor(*pico, device="cpu", score_threshold=1.0)(random_image(50, 70))
    assert len(prediction.instances) == 0
    assert prediction.instances.pred_masks.shape == (0, 50, 70)
    assert prediction.to_coco() == []
    assert np.array_equal(prediction.draw(), random_image(50, 70))


def test_images_and_results_are_saved(predictor, tmp_path):
    image = random_image(64, 80)
    prediction = predictor(image)
    drawn = prediction.draw()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (drawn != image).any(axis=2).mean() > 0.1
    prediction.save(tmp_path / "new" / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "image.png")), drawn)
    prediction.save(tmp_path / "image.jpg")
    assert Image.open(tmp_path / "image.jpg").format == "JPEG"
    prediction.save(tmp_path / "results.json", image_id=7)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results == prediction.to_coco(7)
    assert len(results) == len(prediction.instances)
    best, instances = results[0], prediction.instances
    assert best["image_id"] == 7
    assert best["category_id"] == instances.pred_classes[0].item() + 1  # as in the dataset
    x0, y0, x1, y1 = instances.pred_boxes.tensor[0].tolist()
    assert best["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])
    assert best["segmentation"]["size"] == [64, 80]

    with pytest.raises(ImageError, match=r"cannot write '.*image.what'"):
        prediction.save(tmp_path / "image.what")
    with pytest.raises(ImageError, match=r"cannot write '.*results.json/image.png' \("):
        prediction.save(tmp_path / "results.json" / "image.png")


def test_names_of_classes(pico, predictor, tmp_path):
    """The checkpoint's before the config's before those of the dataset."""
    config, weights = pico
    assert predictor.class_names == ("circle", "square", "triangle", "star", "cross")

    other = make_config("model.roi_heads.num_classes=3")
    plain = Predictor(other, make_weights(other, tmp_path), device="cpu")
    assert plain.class_names == ("class 0", "class 1", "class 2")
    assert {r["category_id"] for r in plain(random_image()).to_coco()} <= {0, 1, 2}

    named = config.copy()
    named.data = {"class_names": COLOURS[::-1]}
    assert Predictor(named, weights, device="cpu").class_names == tuple(COLOURS[::-1])
    with_names = make_weights(config, tmp_path, class_names=COLOURS)
    predictor = Predictor(named, with_names, device="cpu")
    assert predictor.class_names == tuple(COLOURS)
    assert predictor(random_image()).class_names == tuple(COLOURS)

    named.data.class_names = COLOURS[:2]
    with pytest.raises(ConfigError, match="data.class_names has 2 names"):
        Predictor(named, weights, device="cpu")
    wrong = make_weights(config, tmp_path, class_names=COLOURS[:4])
    message = r"model.pth' names 4 classes.*model.roi_heads.num_classes=4"
    with pytest.raises(CheckpointError, match=message):
        Predictor(config, wrong, device="cpu")


def test_category_ids_come_from_the_checkpoint(pico, tmp_path):
    """Also where the dataset of the config is gone."""
    config = pico[0].copy()
    config.dataloader.test.dataset.names = "not_registered"
    config.data = {"val_json": str(tmp_path / "gone.json")}
    state = torch.load(pico[1], weights_only=True)
    state.update(class_names=COLOURS, category_ids=[10, 20, 30, 40, 50])
    torch.save(state, tmp_path / "model.pth")
    prediction = Predictor(config, tmp_path / "model.pth", device="cpu")(random_image())
    assert prediction.class_names == tuple(COLOURS)
    assert prediction.category_ids == (10, 20, 30, 40, 50)
    expected = [(label + 1) * 10 for label in prediction.instances.pred_classes.tolist()]
    assert [result["category_id"] for result in prediction.to_coco()] == expected

    state["category_ids"] = [10, 20]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="has 2 category ids, but the model has 5 classes"):
        Predictor(config, tmp_path / "model.pth", device="cpu")


@pytest.mark.parametrize(
    ("content", "ids", "message"),
    [
        ('{"categories": [{"id": 30}, {"id": 10}, {"id": 5}, {"id": 2}, {"id": 4}]}', None, ""),
        (None, range(5), "No such file"),
        ('{"categories": [{"id": 3', range(5), "JSONDecodeError"),
        ('{"images": []}', range(5), "KeyError"),
        ("[]", range(5), "TypeError"),
    ],
)
def test_older_checkpoints_of_custom_datasets(content, ids, message, pico, tmp_path, caplog):
    """They have no category ids: those are in the validation annotations, or nowhere."""
    config = pico[0].copy()
    config.dataloader.test.dataset.names = "not_registered"
    config.data = {"val_json": str(tmp_path / "val.json"), "class_names": COLOURS}
    if content:
        (tmp_path / "val.json").write_text(content)
    predictor = Predictor(config, pico[1], device="cpu")
    assert predictor.category_ids == tuple(ids or (2, 4, 5, 10, 30))
    assert len(predictor(random_image()).to_coco()) > 0
    warnings = [record.getMessage() for record in caplog.records if "category ids" in record.msg]
    assert [message in warning for warning in warnings] == [True] * bool(message)


def test_published_detector_by_its_name(tmp_path, monkeypatch):
    """From a file where the download would be; so small that it takes seconds."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    name = "mask_rcnn_mvitv2_t"
    with pytest.raises(CheckpointError, match="'missing.pth'"):
        Predictor(name, "missing.pth", device="cpu")
    path = cache_path(model_zoo.MODELS[name].url)
    path.parent.mkdir(parents=True)
    torch.save({"model": instantiate(model_zoo.get_config(name).model).state_dict()}, path)
    predictor = Predictor(name, device="cpu", score_threshold=0.9)
    assert predictor.class_names[:2] == ("person", "bicycle")
    assert len(predictor.class_names) == 80
    prepared = predictor.prepare(random_image(60, 90))
    assert prepared.model_input.shape == (3, 800, 1200)
    assert predictor.category_ids[-1] == 90


def test_saved_config_of_a_training(pico, tmp_path):
    config, weights = pico
    LazyConfig.save(config, str(tmp_path / "config.yaml"))
    prediction = Predictor(tmp_path / "config.yaml", weights, device="cpu")(random_image())
    assert_same(prediction.instances, Predictor(*pico, device="cpu")(random_image()).instances)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            random_image()[:, :, 0],
            r"\(height, width, 3\).* not \(96, 128\)",
        ),
        (np.zeros((8, 8, 4), np.uint8), r"not \(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"the image is empty: its shape is \(0, 8, 3\)"),
        (
            random_image() / 255,
            r"uint8 .*, not float64; .*255 \* image",
        ),
        (random_image().astype(np.int64), "not int64"),
        (torch.zeros(8, 8, 3), "a Tensor is no image"),
        (None, "a NoneType is no image"),
        ("nowhere.jpg", "there is no image 'nowhere.jpg'"),
        ("a\0.jpg", r"'a\\x00.jpg' is not the path of an image"),
    ],
)
def test_bad_images_get_one_sentence(bad, message, predictor):
    for images in (bad, [random_image(), bad]):
        with pytest.raises(ImageError, match=message) as raised:
            predictor(images)
        assert "\n" not in str(raised.value)


def test_a_image_of_which_resizing_leaves_nothing(pico):
    config = make_config(
        "dataloader.test.mapper.augmentations=[{_target_: "
        "detectron2.data.transforms.ResizeShortestEdge, short_edge_length: 96, max_size: 160}]",
    )
    predictor = Predictor(config, pico[1], device="cpu")
    with pytest.raises(ImageError, match="1 x 1000 pixels"):
        predictor(random_image(1, 1000))


@pytest.mark.parametrize(
    ("config", "weights", "options", "error", "message"),
    [
        ("nowhere.py", "x.pth", {}, ConfigError, "there is no config 'nowhere.py'"),
        ("mask_rcnn", "x.pth", {}, ConfigError, "there is no config 'mask_rcnn'"),
        ("mvitv2_t_in1k", None, {}, ConfigError, "Classifier"),
        (PICO, None, {}, CheckpointError, "no weights to predict with"),
        (PICO, "nowhere.pth", {}, CheckpointError, "there is no file 'nowhere.pth'"),
        (PICO, "x.pth", {"score_threshold": 50}, ConfigError, "score_threshold is 50; it must be"),
        (PICO, "x.pth", {"score_threshold": "0.5"}, ConfigError, "score_threshold is '0.5'"),
        (PICO, "x.pth", {"batch_size": 0}, ConfigError, "batch_size is 0; it must be"),
        (PICO, "x.pth", {"batch_size": 1.5}, ConfigError, "batch_size is 1.5; it must be"),
        (PICO, "tests", {}, CheckpointError, "'tests' is a directory"),
        ("configs/ImageNet/mvitv2_t.py", "x.pth", {}, ConfigError, "Classifier"),
    ],
)
def test_mistakes_get_one_sentence(config, weights, options, error, message):
    with pytest.raises(error, match=message):
        Predictor(config, weights, device="cpu", **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(pico):
    with pytest.raises(DeviceError, match="device 'cuda'"):
        Predictor(*pico, device="cuda")


def test_weights_and_config_of_different_numbers_of_classes(pico):
    message = re.escape("has 5 classes, config has 3")
    with pytest.raises(CheckpointError, match=message):
        Predictor(make_config("model.roi_heads.num_classes=3"), pico[1], device="cpu")


def test_configs_of_something_else(pico):
    config = pico[0].copy()
    config.model = config.model.backbone.bottom_up
    with pytest.raises(ConfigError, match="a MViTv2Backbone is not a detector"):
        Predictor(config, pico[1], device="cpu")
    config = pico[0].copy()
    del config.dataloader
    with pytest.raises(ConfigError, match="the config lacks 'model' or 'dataloader.test.mapper'"):
        Predictor(config, pico[1], device="cpu")


def test_bf16_rounds_and_other_types_are_named(pico):
    image = random_image()
    expected = Predictor(*pico, device="cpu")(image).instances
    found = Predictor(*pico, device="cpu", dtype="bf16")(image).instances
    assert found.scores.dtype == torch.float32
    assert not torch.equal(found.scores, expected.scores)
    torch.testing.assert_close(found.scores[:5], expected.scores[:5], atol=0.05, rtol=0)
    with pytest.raises(ConfigError, match="int4"):
        Predictor(*pico, device="cpu", dtype="int4")
