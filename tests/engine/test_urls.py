"""Training, evaluation and prediction from object stores equal those from files."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from mvit_det.cli.main import command
from mvit_det.data import urls
from mvit_det.data.shapes import generate_shapes
from tests.data.object_stores import FlakyServer, s3_bucket
from tests.data.test_urls import upload
from tests.engine.trainings import ROOT, differences, load

CONFIG = "shapes/mask_rcnn_mvitv2_pico"
CLASSIFIER = "shapes/classifier_mvitv2_pico"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder with train.json, val.json and their images."""
    folder = tmp_path_factory.mktemp("dataset")
    for split, number, seed in (("train", 6, 0), ("val", 3, 1)):
        generate_shapes(folder / "shapes", number, 64, seed)
        (folder / "shapes" / "images").rename(folder / split)
        (folder / "shapes" / "annotations.json").rename(folder / f"{split}.json")
        (folder / "shapes").rmdir()
    return folder


@pytest.fixture(scope="module")
def bucket(dataset):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with s3_bucket("shapes") as url:
        upload(dataset, url)
        yield url


def paths(place):
    """The flags of a dataset."""
    flags = ("--train-json", "--train-images", "--val-json", "--val-images")
    names = ("train.json", "train", "val.json", "val")
    return [word for flag, name in zip(flags, names) for word in (flag, f"{place}/{name}")]


def run(name, output, *arguments, code=0, config=CONFIG):
    """A command of mvit-det in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "mvit_det.cli", name, "--config-file", config, "--device", "cpu"]
        + [*arguments, f"train.output_dir={output}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


TRAINING = ("train.max_iter=3", "dataloader.train.total_batch_size=2", "train.visualized_images=2")


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """The output folder of a training from files."""
    output = tmp_path_factory.mktemp("trained")
    run("train", output, *paths(dataset), *TRAINING)
    return output


@pytest.mark.slow
def test_a_training_from_an_object_store_has_the_same_bits(bucket, trained, tmp_path):
    """With workers; images and annotations are objects."""
    workers = ("dataloader.train.num_workers=2", "dataloader.test.num_workers=1")
    printed = run("train", tmp_path, *paths(bucket), *TRAINING, *workers)
    assert "Traceback" not in printed
    assert differences(load(trained)["model"], load(tmp_path)["model"]) == []
    assert_same_evaluation(trained, tmp_path)
    assert (tmp_path / "evaluation" / "predictions.png").exists()


def assert_same_evaluation(*outputs):
    for name in ("coco_instances_results.json", "metrics.json"):
        first, second = ((output / "evaluation" / name).read_text() for output in outputs)
        assert first == second


@pytest.mark.slow
def test_an_evaluation_and_predictions_from_an_object_store(bucket, dataset, trained, tmp_path):
    flags = [*paths(bucket)[4:], "--weights", str(trained / "model_final.pth")]
    run("eval", tmp_path / "eval", *flags)
    assert_same_evaluation(trained, tmp_path / "eval")
    found = {}
    for name, place in (("files", dataset), ("store", bucket)):
        with contextlib.redirect_stdout(io.StringIO()):
            assert predict(trained, tmp_path / name, f"{place}/val") == 0
        results = json.loads((tmp_path / name / "predictions.json").read_text())
        found[name] = [
            {**each, "file_name": each["file_name"].removeprefix(f"{place}/")} for each in results
        ]
        assert len(list((tmp_path / name).glob("*.png"))) == 3
    assert found["store"] == found["files"] != []


def predict(trained, output, *inputs):
    flags = ["--config-file", trained / "config.yaml", "--weights", trained / "model_final.pth"]
    flags += ["--device", "cpu", "--confidence-threshold", "0", "--output", output, "--input"]
    return command("predict")([str(flag) for flag in (*flags, *inputs)])


@pytest.mark.slow
def test_a_classifier_trains_from_folders_of_a_store(dataset, bucket, tmp_path):
    """A folder of images per class; the bits are those of a training from files."""
    for index, path in enumerate(sorted((dataset / "train").iterdir())):
        copy = tmp_path / "classes" / "ab"[index % 2] / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    upload(tmp_path / "classes", f"{bucket}/classes")
    outputs = []
    for place in (tmp_path / "classes", f"{bucket}/classes"):
        outputs.append(tmp_path / f"output{len(outputs)}")
        folders = [f"--train-folder={place}", f"--val-folder={place}"]
        sizes = ("dataloader.train.num_workers=1", "dataloader.test.num_workers=0")
        run("train", outputs[-1], *folders, *TRAINING[:2], *sizes, config=CLASSIFIER)
    first, second = (load(output)["model"] for output in outputs)
    assert differences(first, second) == []
    accuracies = [(each / "evaluation" / "accuracy.csv").read_text() for each in outputs]
    assert accuracies[0] == accuracies[1]


@pytest.fixture
def model(tmp_path_factory):
    """Config and weights of a detector that was not trained."""
    from detectron2.config import LazyConfig, instantiate

    from mvit_det.checkpoint import Checkpointer
    from mvit_det.config import load_config

    folder = tmp_path_factory.mktemp("model")
    config = load_config(CONFIG)
    torch.manual_seed(0)
    Checkpointer(instantiate(config.model), folder).save("model_final")
    LazyConfig.save(config, str(folder / "config.yaml"))
    return folder


def test_predictions_go_on_when_a_server_is_back(model, dataset, tmp_path, monkeypatch, capsys):
    """A failing server ends the command instead of skipping images; a missing one is skipped."""
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(urls, "RETRY_DELAYS", (0.01,))
    with FlakyServer(dataset).running() as server:
        inputs = [f"{server.url}/val/00000{number}.png" for number in (1, 2, 9, 3)]
        server.answers["/val/000003.png"] = 503
        assert predict(model, tmp_path, *inputs) == 2
        printed = capsys.readouterr()
        assert printed.err.splitlines()[0].startswith("skipped: there is no image 'http")
        assert "000003.png" in printed.err.splitlines()[-1]
        server.answers.clear()
        server.requests.clear()
        assert predict(model, tmp_path, *inputs) == 1
        assert server.requests == ["/val/000003.png"]
    assert "in 3 images" in capsys.readouterr().out
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert sorted({each["file_name"] for each in results}) == sorted(inputs[:2] + inputs[3:])


@pytest.mark.slow
def test_a_training_stops_when_its_server_fails(dataset, tmp_path):
    """Also where bad images are skipped: they would all be."""
    pytest.importorskip("aiohttp")
    with FlakyServer(dataset).running() as server:
        server.answers["/train/000002.png"] = 401
        flags = (*TRAINING, "data.on_bad_image=skip", "dataloader.train.num_workers=1")
        printed = run("train", tmp_path, *paths(server.url), *flags, code=1)
    last = printed.strip().splitlines()[-1]
    assert last.startswith("error: cannot read 'http")
    assert "000002.png" in last
    assert "Skipped" not in printed


def test_annotations_are_requested_once_per_training(dataset, tmp_path):
    pytest.importorskip("aiohttp")
    periods = ("train.eval_period=1", "train.validation_loss=True", "train.visualized_images=0")
    with FlakyServer(dataset).running() as server:
        run("train", tmp_path, *paths(server.url), *TRAINING[:2], *periods)
        for name in ("/train.json", "/val.json"):
            assert server.requests.count(name) == 1


def test_the_images_of_a_url_are_checked(dataset, tmp_path, capsys):
    pytest.importorskip("aiohttp")
    with FlakyServer(dataset).running() as server:
        flags = [f"{server.url}/val.json", "--images", f"{server.url}/val"]
        assert command("check-data")(flags) == 0
        assert capsys.readouterr().out.startswith("no issues")
        server.answers["/val/000002.png"] = 404
        assert command("check-data")(flags) == 1
        assert "/val/000002.png" in capsys.readouterr().out


@pytest.mark.slow
def test_standard_datasets_may_be_at_a_url(dataset, tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    annotations = (dataset / "val.json").read_bytes()
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_bytes(annotations)
    shutil.copytree(dataset / "val", tmp_path / "coco" / "val2017")
    program = """
from mvit_det.data import load_records, read_image
from mvit_det.evaluation import COCOEvaluator
records = load_records("coco_2017_val", filter_empty=False)
print(len(records), read_image(records[0]["file_name"]).shape)
print(len(COCOEvaluator("coco_2017_val").dataset.images))
"""
    with FlakyServer(tmp_path).running() as server:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "DETECTRON2_DATASETS": server.url, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert server.requests.count("/coco/annotations/instances_val2017.json") == 1
    assert done.stdout.splitlines()[-2:] == ["3 (64, 64, 3)", "3"], done.stderr


@pytest.mark.parametrize("name", ["predict", "train"])
def test_outputs_are_not_written_to_urls(name, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "predict":
        with pytest.raises(SystemExit) as stopped:
            predict(model, "s3://bucket/out", "photo.jpg")
        assert stopped.value.code == 2
        message = capsys.readouterr().err
    else:
        arguments = ["--config-file", CONFIG, "--device", "cpu", "train.output_dir=s3://bucket/out"]
        with pytest.raises(SystemExit) as stopped:
            command("train")(arguments)
        message = str(stopped.value.code)
    assert "'s3://bucket/out'" in message
    assert "URL" in message
    assert list(tmp_path.iterdir()) == []
