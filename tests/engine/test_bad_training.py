"""Trainings continue on odd input; on bad input, or a failing machine, they end in order.

The tables have a row per case, as those in tests/data/test_bad_input.py.
"""

import json
import math
import os
import re
import runpy
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from torch import nn

from mvit_det.checkpoint import read_weights
from mvit_det.config import load_config, resolve_device
from mvit_det.data import DatasetMapper
from mvit_det.data.catalog import register_coco
from mvit_det.data.coco import CocoDataset
from mvit_det.data.image_folder import register_image_folder
from mvit_det.data.shape_classes import generate_shape_classes
from mvit_det.data.validation import MAX_OBJECTS
from mvit_det.engine import evaluate, evaluate_checkpoint, train
from mvit_det.errors import ConfigError, DatasetError, ImageError, OutputError
from tests.engine.trainings import children_of, read_until

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PICO = "shapes/mask_rcnn_mvitv2_pico.py"
CASCADE = "shapes/cascade_mask_rcnn_mvitv2_pico.py"


@dataclass(frozen=True)
class Odd:
    """Two images of a size, (height, width), with so many objects on each."""

    name: str
    size: tuple[int, int] = (64, 64)
    objects: int = 3
    crowd: int = 0
    config: str = PICO


@dataclass(frozen=True)
class Bad:
    """Input of a call of the tool or of the mapper, and the message about it."""

    name: str
    given: Any
    says: str


ODD = [
    Odd("no objects in a batch", objects=0),
    Odd("no objects in a batch of a cascade", objects=0, config=CASCADE),
    Odd("crowds alone", crowd=1),
    Odd("a single pixel", size=(1, 1), objects=1),
    Odd("4 × 4000", size=(4, 4000)),
    Odd("4000 × 4", size=(4000, 4)),
]
IMAGES = [
    Bad(
        "100,000 objects",
        dict(size=(64, 64), objects=100_000),
        f"has 100000 objects, and training takes {MAX_OBJECTS} at most; cut it into smaller",
    ),
    Bad(
        "20000 × 4",
        dict(size=(20_000, 4), objects=1),
        r"is 20000 × 4 \(height × width\), too narrow to be resized; crop",
    ),
    Bad(
        "4 × 20000",
        dict(size=(4, 20_000), objects=1),
        r"is 4 × 20000 \(height × width\), too narrow to be resized; crop",
    ),
]
FOLDERS = [
    Bad(
        "output folder that is a file",
        "{tmp_path}/file",
        r"cannot write to the output directory '.*/file' \(a file has this name\); choose another "
        "one with train.output_dir=…",
    ),
    Bad(
        "output folder under a file",
        "{tmp_path}/file/folder",
        r"cannot write to the output directory '.*/file/folder' \(Not a directory\); choose "
        "another one with train.output_dir=…",
    ),
]
RUNS = [
    Bad(
        "damaged image",
        ["dataloader.train.num_workers=2"],
        r"the image '.*train/images/00000\d.png' is truncated or corrupt .*remove it",
    ),
    Bad(
        "diverging",
        ["lr_multiplier.scheduler.start_value=1e30", "train.checkpointer.period=1"],
        r"the model's prediction was infinite or NaN at iteration \d; see the batch, its losses "
        r"and gradients in '.*nonfinite/iteration_.*\.json'",
    ),
]
# All of them, to be counted.
CASES = [*ODD, *IMAGES, *FOLDERS, *RUNS]


def table(cases):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def write(folder, size=(64, 64), objects=3, crowd=0, num_images=2):
    """Images of noise with squares for objects; returns the name of the registered dataset."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    height, width = size
    side = min(*size, 8)
    images, annotations = [], []
    for image in range(1, num_images + 1):
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{image}.png")
        images.append({"id": image, "file_name": f"{image}.png", "height": height, "width": width})
        for x, y in generator.integers(0, (width - side + 1, height - side + 1), (objects, 2)):
            x, y = int(x), int(y)
            corners = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": [x, y, side, side],
                    "area": side**2,
                    "iscrowd": crowd,
                    "segmentation": {"size": [height, width], "counts": [0, height * width]}
                    if crowd
                    else [corners],
                }
            )
    dataset = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, 6)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(dataset))
    return register_coco(CocoDataset.from_dict(dataset, path), folder)


def make_config(output, training, validation, *overrides, path=PICO):
    config = load_config(
        CONFIGS / path,
        [
            f"train.output_dir={output}",
            "train.max_iter=2",
            "train.log_period=1",
            "train.visualized_images=0",
            "dataloader.train.total_batch_size=2",
            *overrides,
        ],
    )
    config.dataloader.train.dataset.update(names=training, filter_empty=False)
    config.dataloader.test.dataset.names = validation
    resolve_device(config, "cpu")
    return config


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


@pytest.fixture
def validation(tmp_path):
    return write(tmp_path / "validation")


@table(ODD)
def test_odd_images_are_trained_on_and_evaluated(case, tmp_path):
    name = write(tmp_path / "data", case.size, case.objects, case.crowd)
    results = train(make_config(tmp_path, name, name, path=case.config))
    losses = [line["total_loss"] for line in metrics(tmp_path) if "total_loss" in line]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert not (tmp_path / "nonfinite").exists()
    # Without objects there is nothing to find.
    assert math.isnan(results["bbox"]["AP"]) == (not case.objects or bool(case.crowd))


@table(IMAGES)
def test_images_that_no_training_can_take(case, tmp_path):
    height, width = case.given["size"]
    Image.new("RGB", (width, height)).save(tmp_path / "image.png")
    annotation = {"bbox": [0, 0, 2, 2], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    record = {
        "file_name": str(tmp_path / "image.png"),
        "height": height,
        "width": width,
        "annotations": [annotation] * case.given["objects"],
    }
    mapper = DatasetMapper(
        is_train=True,
        # As published detectors resize to the largest size.
        augmentations=instantiate(
            load_config(CONFIGS / "COCO" / "mask_rcnn_mvitv2_t.py").dataloader.test.mapper
        ).augmentations.augs,
        image_format="RGB",
        use_instance_mask=False,
    )
    with pytest.raises(ImageError, match=case.says):
        mapper(record)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ("mask_rcnn_mvitv2_pico", "model.roi_heads.num_classes"),
        ("retinanet_mvitv2_pico", "model.num_classes"),
        ("classifier_mvitv2_pico", "model.num_classes"),
    ],
)
def test_a_model_has_as_many_classes_as_its_dataset(config, field, shapes_root, tmp_path):
    name = "shapes_val"
    if config == "classifier_mvitv2_pico":
        generate_shape_classes(tmp_path / "images", 10, 64, 0)
        name, _ = register_image_folder(tmp_path / "images")
    overrides = [f"dataloader.{split}.dataset.names={name}" for split in ("train", "test")]
    overrides += [f"{field}=3", f"train.output_dir={tmp_path / 'run'}", "train.device=cpu"]
    with pytest.raises(ConfigError, match=f"'{name}' has 5 classes.* 3; set {field}=5"):
        train(load_config(CONFIGS / "shapes" / f"{config}.py", overrides))


def test_datasets_for_training_and_evaluation_have_the_same_classes(shapes_root, tmp_path):
    DatasetCatalog.get("shapes_val")
    metadata = MetadataCatalog.get("shapes_val")
    content = json.loads(Path(metadata.json_file).read_text())
    content["categories"][:2] = [
        {**each, "name": other["name"]}
        for each, other in zip(content["categories"], content["categories"][1::-1])
    ]
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    register_coco_instances("swapped", {}, tmp_path / "swapped.json", metadata.image_root)
    try:
        overrides = [
            "dataloader.train.dataset.names=shapes_val",
            "dataloader.test.dataset.names=swapped",
            f"train.output_dir={tmp_path}",
            "train.device=cpu",
        ]
        with pytest.raises(DatasetError, match="'shapes_val' and 'swapped' differ"):
            train(load_config(CONFIGS / PICO, overrides))
    finally:
        DatasetCatalog.remove("swapped")
        MetadataCatalog.remove("swapped")


def test_any_number_of_objects_is_evaluated(tmp_path):
    """Of which the first hundred, for sure: a precision of 1 at the least of 101 recalls."""
    name = write(tmp_path / "data", objects=20_000, num_images=1)
    results = evaluate(make_config(tmp_path, name, name), Oracle(name))
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100 / 101)


class Oracle(nn.Module):
    """Finds the first hundred objects of each image, with masks."""

    def __init__(self, name):
        super().__init__()
        self.records = {record["image_id"]: record for record in DatasetCatalog.get(name)}

    def forward(self, batch):
        return [{"instances": self.find(self.records[image["image_id"]])} for image in batch]

    def find(self, record):
        annotations = record["annotations"][:100]
        boxes = torch.tensor([annotation["bbox"] for annotation in annotations]).float()
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.zeros(len(boxes), record["height"], record["width"], dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
            mask[y0:y1, x0:x1] = True
        return Instances(
            (record["height"], record["width"]),
            pred_boxes=Boxes(boxes),
            scores=torch.ones(len(boxes)),
            pred_classes=torch.zeros(len(boxes), dtype=torch.long),
            pred_masks=masks,
        )


def damage(path):
    path.write_bytes(path.read_bytes()[:-600])


def test_images_that_are_skipped_are_listed_and_their_objects_missed(tmp_path, caplog):
    names = [write(tmp_path / split, objects=1) for split in ("training", "validation")]
    damage(tmp_path / "training" / "2.png")
    damage(tmp_path / "validation" / "1.png")
    config = make_config(tmp_path, *names, "data.on_bad_image=skip")
    train(config)
    listed = re.search(r"Images that were skipped \(1\):\n(.*)", caplog.text)
    assert "training/2.png' is truncated or corrupt" in listed[1]
    assert re.search("Skipped 1 so far: .*validation/1.png' is truncated", caplog.text)
    # One of two objects is found, for sure: a precision of 1 at 51 of 101 values of recall.
    results = evaluate(config, Oracle(names[1]))
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100 * 51 / 101)


@pytest.fixture
def damaged(run, tmp_path):
    """The images of `run`, each of which is truncated."""
    root = tmp_path / "datasets"
    for name in ("train", "val"):
        (root / "shapes" / name / "images").mkdir(parents=True)
        source = run.datasets / "shapes" / name
        for path in (path for path in source.rglob("*") if path.is_file()):
            target = root / "shapes" / name / path.relative_to(source)
            target.write_bytes(path.read_bytes())
            if target.suffix == ".png":
                damage(target)
    return root


@pytest.mark.slow
@table(RUNS)
def test_a_training_that_cannot_go_on_says_why(case, run, request, tmp_path):
    environment = {}
    if case.name == "damaged image":
        environment["DETECTRON2_DATASETS"] = str(request.getfixturevalue("damaged"))
    code, printed = run(tmp_path / "output", *case.given, check=False, **environment)
    assert code == 1
    assert "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert re.match(f"error: {case.says}", last), printed
    if case.name == "diverging":
        (report,) = re.findall("gradients in '(.*?)'", last)
        (part,) = json.loads(Path(report).read_text())["batch"]
        assert len(part["images"]) == 4
        checkpoint = (tmp_path / "output" / "last_checkpoint").read_text()
        weights = read_weights(tmp_path / "output" / checkpoint)
        assert all(tensor.isfinite().all() for tensor in weights.tensors.values())


@pytest.mark.slow
def test_a_process_that_loads_images_is_killed(run, tmp_path):
    process = run.start(
        tmp_path,
        "train.max_iter=100000",
        "train.log_period=5",
        "train.checkpointer.period=100000",
        "dataloader.train.num_workers=2",
    )
    read_until("iter: 5/", process)
    killed, other = children_of(process)
    # Not while it logs: Python's logging would catch what PyTorch raises there, and show it before
    # the training ends.
    time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in printed
    message = printed.strip().splitlines()[-1]
    assert message.startswith(f"error: a DataLoader worker (pid {killed.pid}) ")
    for remedy in ("dataloader.train.num_workers", "--resume"):
        assert remedy in message
    assert not other.is_running()


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_as_one_to_the_trainer(run, tmp_path):
    """As Slurm, systemd and Ctrl-C in a terminal send it."""
    process = run.start(tmp_path, "train.max_iter=100000", "dataloader.train.num_workers=2")
    read_until("Saved", process)
    workers = children_of(process)
    assert len(workers) == 2
    os.killpg(process.pid, signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in printed
    assert printed.count("stopping after this step") == 1
    assert "Training stopped by SIGTERM after iteration" in printed
    assert not any(worker.is_running() for worker in workers)


def test_a_full_disk_takes_no_metrics_and_no_results(validation, tmp_path, caplog):
    """Writing to /dev/full fails as on a full disk."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    output = tmp_path / "output"
    (output / "evaluation").mkdir(parents=True)
    for name in ("metrics.json", "evaluation/coco_instances_results.json"):
        (output / name).symlink_to("/dev/full")
    config = make_config(output, validation, validation, "train.eval_period=1")
    with pytest.raises(
        OutputError, match=r"cannot write results of the evaluation \(No space left on device\); m"
    ):
        train(config)
    assert caplog.text.count("The training continues without metrics of JSONWriter (No space") == 1
    assert caplog.text.count("The training continues without this evaluation: cannot write") == 1
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 1


@table(FOLDERS)
@pytest.mark.parametrize("function", [train, evaluate_checkpoint, None])
def test_output_folders_that_cannot_be_written(case, function, validation, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    folder = case.given.format(tmp_path=tmp_path)
    if function is not None:
        config = make_config(folder, validation, validation)
        with pytest.raises(ConfigError, match=case.says):
            function(config)
        return
    arguments = ["--config-file", str(CONFIGS / PICO), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["tool", *arguments, f"train.output_dir={folder}"])
    with pytest.raises(SystemExit, match=f"^error: {case.says}$"):
        runpy.run_path(str(CONFIGS.parent / "tools/lazyconfig_train_net.py"), run_name="__main__")


def test_every_case_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
