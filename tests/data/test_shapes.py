"""Properties of the generated shapes: determinism, truthful annotations, safe writing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_util

from mvit_det.data import generate_shapes, register_shapes
from mvit_det.data.shape_scene import CATEGORIES, MIN_VISIBLE_FRACTION, draw_scene
from mvit_det.data.shapes import SPLIT_SIZE, SPLITS
from mvit_det.errors import DatasetError

# Of the first six images of `shapes_val`.
FINGERPRINT = 19, "aa8977b1d79ee995"
SURFACES_OF_VAL = ["blotches", "gradient", "blotches", "stripes", "gradient", "dots"]
MEANS_OF_VAL = [164.82, 102.83, 169.31, 80.67, 71.25, 148.1]


def decode(segmentation, height, width):
    """(H, W) bool mask of polygons or run lengths, as pycocotools sees it."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return mask_util.decode(segmentation).astype(bool)


def scenes(count, height=128, width=128, max_shapes=5, crowd_fraction=0.2, seed=7):
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield draw_scene(rng, height, width, max_shapes, crowd_fraction)[:2]


def images(folder):
    return {path.name: cv2.imread(str(path)) for path in sorted((folder / "images").iterdir())}


def python(code, *arguments):
    """Starts Python on ``code`` in another process."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_same_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate_shapes(tmp_path / name, 6, 96, seed)
    files = {
        name: {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in "abc"
    }
    assert len(files["a"]) == 7
    assert files["a"] == files["b"]
    assert all(files["a"][name] != files["c"][name] for name in files["a"])


def test_documented_ap_was_measured_on_these_images(tmp_path):
    """The first images of `shapes_val`: annotations exactly, and pixels up to OpenCV's rounding."""
    dataset = generate_shapes(tmp_path / "set", 6, SPLIT_SIZE, SPLITS["shapes_val"][1])
    boxes = [[each["category_id"], *each["bbox"]] for each in dataset["annotations"]]
    digest = hashlib.sha256(json.dumps(boxes).encode()).hexdigest()
    assert (len(boxes), digest[:16]) == FINGERPRINT
    assert [image["surface"] for image in dataset["images"]] == SURFACES_OF_VAL
    means = [image.mean() for image in images(tmp_path / "set").values()]
    np.testing.assert_allclose(means, MEANS_OF_VAL, atol=0.05)


def test_a_larger_dataset_begins_with_the_smaller_one(tmp_path):
    few = generate_shapes(tmp_path / "few", 5, (80, 112), 0, crowd_fraction=0.5)
    many = generate_shapes(tmp_path / "many", 9, (80, 112), 0, crowd_fraction=0.5)
    assert many["images"][:5] == few["images"]
    assert many["annotations"][: len(few["annotations"])] == few["annotations"]
    few_images, many_images = images(tmp_path / "few"), images(tmp_path / "many")
    for name, image in few_images.items():
        assert image.shape == (80, 112, 3)
        assert np.array_equal(image, many_images[name])


def test_file_is_coco_format(tmp_path):
    returned = generate_shapes(tmp_path / "set", 40, 64, 0, crowd_fraction=0.3)
    dataset = json.loads((tmp_path / "set" / "annotations.json").read_text())
    assert dataset == returned
    assert [image["id"] for image in dataset["images"]] == list(range(1, 41))
    assert sorted(images(tmp_path / "set")) == [i["file_name"] for i in dataset["images"]]
    ids = [annotation["id"] for annotation in dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    assert [category["id"] for category in dataset["categories"]] == [1, 2, 3, 4, 5]
    assert {a["category_id"] for a in dataset["annotations"]} == {1, 2, 3, 4, 5}
    crowds = [a for a in dataset["annotations"] if a["iscrowd"]]
    assert 4 <= len(crowds) <= 20
    for annotation in dataset["annotations"]:
        assert isinstance(annotation["segmentation"], dict if annotation["iscrowd"] else list)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 128), (150, 333)])
def test_polygons_cover_what_is_visible(height, width):
    covered, visible, different = 0, 0, 0
    for _, objects in scenes(60, height, width, max_shapes=8):
        assert objects
        for scene_object in objects:
            polygons = [outline.ravel().tolist() for outline in scene_object.polygons]
            assert all(len(polygon) >= 6 for polygon in polygons)
            mask = decode(polygons, height, width)
            difference = np.logical_xor(mask, scene_object.mask).sum()
            # Where a border runs through the middle of pixels, they may be rounded either way.
            border = sum(cv2.arcLength(p.astype(np.float32), True) for p in scene_object.polygons)
            assert difference <= 2 + 0.5 * border
            different += difference
            covered += mask.sum()
            visible += scene_object.area
    assert covered == pytest.approx(visible, rel=0.01)
    assert different <= 0.05 * visible


def test_masks_of_one_image_do_not_overlap():
    for _, objects in scenes(60, max_shapes=12):
        assert sum(scene_object.mask.astype(int) for scene_object in objects).max() == 1


def test_occlusion_and_holes_split_shapes_into_several_polygons():
    counts = [
        len(scene_object.polygons)
        for _, objects in scenes(60, max_shapes=8, crowd_fraction=0)
        for scene_object in objects
    ]
    assert min(counts) == 1
    assert sum(count > 1 for count in counts) >= 10


def test_every_number_of_shapes_up_to_the_largest_occurs():
    counts = {len(objects) for _, objects in scenes(80, max_shapes=4, crowd_fraction=0)}
    assert counts == {1, 2, 3, 4}


def test_no_annotation_is_hidden():
    areas = [
        scene_object.mask.sum()
        for _, objects in scenes(100, max_shapes=12, crowd_fraction=0)
        for scene_object in objects
    ]
    # The smallest shape is a star of radius 0.06 * 128 whose area is 1.32 squared radii.
    smallest_shape = 1.32 * (0.06 * 128) ** 2
    assert min(areas) >= 0.8 * MIN_VISIBLE_FRACTION * smallest_shape


def test_boxes_and_areas_belong_to_what_is_visible(tmp_path):
    dataset = generate_shapes(tmp_path / "set", 40, 128, 0, crowd_fraction=0.3)
    for annotation in dataset["annotations"]:
        x, y, width, height = annotation["bbox"]
        mask = decode(annotation["segmentation"], 128, 128)
        if annotation["iscrowd"]:
            encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert annotation["bbox"] == mask_util.toBbox(encoded).tolist()
            assert annotation["area"] == mask.sum() > 0
        else:
            corners = np.concatenate(
                [np.reshape(polygon, (-1, 2)) for polygon in annotation["segmentation"]]
            )
            assert corners.min(axis=0).tolist() == [x, y]
            assert corners.max(axis=0).tolist() == [x + width, y + height]
            outlined = sum(
                cv2.contourArea(np.reshape(polygon, (-1, 2)).astype(np.float32))
                for polygon in annotation["segmentation"]
            )
            assert annotation["area"] == pytest.approx(outlined, rel=0.03, abs=2)
            assert annotation["area"] == pytest.approx(mask.sum(), rel=0.1, abs=4)
        assert 0 <= x < x + width <= 128
        assert 0 <= y < y + height <= 128


def test_crowds_are_groups():
    crowds = [
        scene_object
        for _, objects in scenes(30, crowd_fraction=1)
        for scene_object in objects
        if scene_object.is_crowd
    ]
    assert len(crowds) == 30
    parts = [cv2.connectedComponents(crowd.mask.astype(np.uint8))[0] - 1 for crowd in crowds]
    assert np.mean(parts) > 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"size": 63}, "height is 63"),
        ({"size": (64, 4096)}, "width is 4096"),
        ({"seed": -1}, "seed is -1"),
        ({"max_shapes": 0}, "max_shapes is 0"),
        ({"crowd_fraction": 1.5}, "crowd_fraction is 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, changes, message):
    arguments = {"num_images": 2, "size": 64, "seed": 0, **changes}
    with pytest.raises(ValueError, match=message):
        generate_shapes(tmp_path / "set", **arguments)
    assert not any(tmp_path.iterdir())


def test_only_generated_datasets_are_overwritten(tmp_path):
    output = tmp_path / "set"
    output.mkdir()
    generate_shapes(output, 3, 64, 0)  # an empty folder is fine
    with pytest.raises(FileExistsError, match="already holds a generated dataset"):
        generate_shapes(output, 2, 64, 0)
    generate_shapes(output, 2, 64, 0, overwrite=True)
    assert len(images(output)) == 2

    (output / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        generate_shapes(output, 2, 64, 0, overwrite=True)
    assert (output / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.slow
@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGKILL], ids=["int", "kill"])
def test_an_interrupted_run_leaves_nothing_half_made(tmp_path, stop_signal):
    output = tmp_path / "set"
    process = python(
        # A shell makes what it runs in the background deaf to Ctrl-C; this one shall listen.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mvit_det.data.shapes import generate_shapes;"
        "generate_shapes(sys.argv[1], 100_000, 64, 0)",
        output,
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.png"))) < 20:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "generation did not start"
        time.sleep(0.02)
    os.kill(process.pid, stop_signal)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not output.exists()
    if stop_signal == signal.SIGINT:
        assert not any(tmp_path.iterdir())
    generate_shapes(output, 2, 64, 0)
    assert len(images(output)) == 2


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_dataset(tmp_path):
    code = (
        "import sys; from mvit_det.data import shapes; shapes.SPLITS['shapes_val'] = (30, 1);"
        "from detectron2.data import DatasetCatalog; shapes.register_shapes(sys.argv[1]);"
        "print(len(DatasetCatalog.get('shapes_val')))"
    )
    processes = [python(code, tmp_path) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert output.strip() == "30"
    assert [path.name for path in tmp_path.iterdir()] == ["val"]


def test_a_process_that_finishes_second_keeps_the_first_result(tmp_path, monkeypatch):
    output = tmp_path / "set"

    def draw_late(*arguments):
        if not output.exists():
            monkeypatch.undo()
            generate_shapes(output, 3, 64, 0)
        return draw_scene(*arguments)

    monkeypatch.setattr("mvit_det.data.shapes.draw_scene", draw_late)
    with pytest.raises(FileExistsError, match="was written by another process"):
        generate_shapes(output, 2, 64, 0)
    assert len(images(output)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_registered_datasets_load_in_detectron2(shapes_root):
    register_shapes(shapes_root)  # again: harmless
    records = DatasetCatalog.get("shapes_val")
    assert len(records) == SPLITS["shapes_val"][0]
    metadata = MetadataCatalog.get("shapes_val")
    assert metadata.thing_classes == list(CATEGORIES)
    assert metadata.evaluator_type == "coco"
    assert Path(metadata.json_file).exists()
    assert Path(metadata.image_root) == Path(records[0]["file_name"]).parent
    classes = {each["category_id"] for record in records for each in record["annotations"]}
    assert classes == set(range(len(CATEGORIES)))
    assert cv2.imread(records[0]["file_name"]).shape == (SPLIT_SIZE, SPLIT_SIZE, 3)


def test_default_root_follows_the_environment(tmp_path, monkeypatch, shapes_root):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_shapes()
    json_file = MetadataCatalog.get("shapes_val").json_file
    register_shapes(shapes_root)
    assert json_file == str(tmp_path / "shapes" / "val" / "annotations.json")
    assert MetadataCatalog.get("shapes_val").json_file.startswith(str(shapes_root))


def test_a_root_that_cannot_be_written_says_what_to_do(tmp_path, shapes_root):
    (tmp_path / "file").write_text("")
    register_shapes(tmp_path / "file")
    try:
        with pytest.raises(DatasetError, match="set the environment variable DETECTRON2_DATASETS"):
            DatasetCatalog.get("shapes_val")
    finally:
        register_shapes(shapes_root)
