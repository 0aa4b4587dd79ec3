"""Images of instances and grids of predictions."""

import colorsys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import ExifTags, Image

from mvit_det.drawing import class_colour, draw_instances
from mvit_det.visualization import (
    CAPTION_HEIGHT,
    GAP,
    contact_grid,
    prediction_grid,
    save_prediction_grid,
)

NAMES = ["circle", "square"]


def predictions_from(records):
    """The ground truth of Detectron2's records in COCO's result format."""
    return [
        {
            "image_id": record["image_id"],
            "category_id": annotation["category_id"] + 1,
            "bbox": annotation["bbox"],
            "score": 0.9,
            "segmentation": annotation["segmentation"],
        }
        for record in records
        for annotation in record["annotations"]
    ]


def panels(grid, number):
    """Ground truth and prediction of the first ``number`` (1 or 2) images, each 320 x 320."""
    top = GAP + CAPTION_HEIGHT
    for pair in range(number):
        left = 2 * GAP + pair * (2 * 320 + 3 * GAP)
        right = left + 320 + GAP
        yield (
            grid[top : top + 320, left : left + 320],
            grid[top : top + 320, right : right + 320],
        )


def test_masks_boxes_and_names_are_drawn_where_they_belong():
    image = np.full((200, 300, 3), 128, np.uint8)
    masks = np.zeros((2, 200, 300), bool)
    masks[0, 60:160, 40:140] = True
    masks[1, 100:140, 200:260] = True
    boxes = np.array([[40.0, 60, 140, 160], [200, 100, 260, 140]])
    drawn = draw_instances(image, boxes, masks, [0, 1], [0.75, 0.5], NAMES)

    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()
    for label, (row, column) in enumerate([(110, 90), (120, 230)]):
        expected = 0.6 * 128 + 0.4 * np.array(class_colour(label))
        assert np.abs(drawn[row, column] - expected).max() <= 1
    changed = (drawn != image).any(axis=2)
    assert not changed[:, :35].any()
    assert not changed[165:].any()
    assert changed[45:58, 40:100].mean() > 0.5  # the tag above the first box


def test_scores_and_names_change_the_image():
    image = np.zeros((100, 100, 3), np.uint8)
    box = np.array([[20.0, 40, 80, 90]])
    drawings = [
        draw_instances(image, box, None, [0], None, NAMES),
        draw_instances(image, box, None, [0], [0.5], NAMES),
        draw_instances(image, box, None, [0], [0.6], NAMES),
        draw_instances(image, box, None, [1], None, NAMES),
    ]
    for first in range(4):
        for second in range(first):
            assert (drawings[first] != drawings[second]).any()


def drawn_name(name):
    image = np.full((120, 400, 3), 90, np.uint8)
    return draw_instances(image, np.array([[4, 40, 380, 110]]), None, [0], None, [name])


def test_letters_beyond_ascii_are_told_apart():
    """Pillow's own font has none of them, and draws the same box for each."""
    pytest.importorskip("matplotlib")  # its font
    names = ["grün", "grön", "Łódź", "жук", "жак", "دب", "بد"]
    images = [drawn_name(name) for name in names]
    for index, image in enumerate(images):
        assert all((image != other).any() for other in images[:index])


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("two\n \tlines", "two lines"), ("a\ud800", "a?"), ("", " ")],
)
def test_names_are_drawn_on_one_line(name, same_as):
    assert (drawn_name(name) == drawn_name(same_as)).all()


def test_a_long_name_keeps_its_score():
    boxes = np.array([[4, 40, 380, 110]])
    image = np.full((120, 1200, 3), 90, np.uint8)
    first, second = (
        draw_instances(image, boxes, None, [0], [score], ["x" * 10_000]) for score in (0.25, 0.75)
    )
    assert (first != second).any()


def test_no_instances_leave_the_image_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    drawn = draw_instances(image, np.zeros((0, 4)), np.zeros((0, 40, 50), bool), [], [], NAMES)
    assert np.array_equal(drawn, image)


@pytest.mark.parametrize("box", [(-20, -30, 30, 20), (0, 0, 50, 40), (45, 35, 90, 80)])
def test_boxes_may_leave_the_image(box):
    image = np.zeros((40, 50, 3), np.uint8)
    drawn = draw_instances(image, np.array([box]), None, [0], [1.0], NAMES)
    assert drawn.shape == image.shape
    assert drawn.any()


def test_wrong_arguments_are_refused():
    box = np.array([[1.0, 2, 3, 4]])
    with pytest.raises(ValueError, match=r"image is float64 \(4, 4, 3\); it must be uint8"):
        draw_instances(np.zeros((4, 4, 3)), box, None, [0], None, NAMES)
    with pytest.raises(ValueError, match=r"numbers of boxes, masks, labels and captions differ"):
        draw_instances(np.zeros((4, 4, 3), np.uint8), box, None, [0, 1], None, NAMES)


def test_colours_of_neighbouring_classes_are_far_apart():
    hues = [colorsys.rgb_to_hsv(*np.divide(class_colour(label), 255))[0] for label in range(80)]
    assert len({class_colour(label) for label in range(80)}) == 80
    for first, second in zip(hues, hues[1:]):
        distance = abs(first - second)
        assert min(distance, 1 - distance) > 0.3


def test_grid_shows_predictions_beside_ground_truth(shapes_root, tmp_path):
    records = DatasetCatalog.get("shapes_val")
    shown = [records[0], records[-1]]
    assert not any(a["iscrowd"] for record in shown for a in record["annotations"])
    save_prediction_grid(
        "shapes_val", predictions_from(records), tmp_path / "grid.png", num_images=2
    )
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (CAPTION_HEIGHT + 320 + 2 * GAP, 2 * (640 + GAP) + 6 * GAP, 3)
    nothing = prediction_grid("shapes_val", [], num_images=2)
    for (truth, predicted), (same_truth, empty) in zip(panels(grid, 2), panels(nothing, 2)):
        assert np.array_equal(truth, same_truth)
        assert (truth != empty).any(axis=2).mean() > 0.005
        # Only the tags differ, which show the score of predictions.
        assert 0 < (truth != predicted).any(axis=2).mean() < 0.1
    captions = grid[GAP : GAP + CAPTION_HEIGHT]
    assert (captions < 128).any()


def test_predictions_under_the_threshold_are_hidden(shapes_root):
    predictions = predictions_from(DatasetCatalog.get("shapes_val"))
    hidden = prediction_grid("shapes_val", predictions, 3, score_threshold=0.95)
    assert np.array_equal(hidden, prediction_grid("shapes_val", [], 3))
    assert not np.array_equal(hidden, prediction_grid("shapes_val", predictions, 3))


def test_boxes_without_masks_can_be_shown(shapes_root):
    predictions = predictions_from(DatasetCatalog.get("shapes_val"))
    for prediction in predictions:
        del prediction["segmentation"]
    with_boxes = prediction_grid("shapes_val", predictions, 1)
    assert not np.array_equal(with_boxes, prediction_grid("shapes_val", [], 1))


def test_a_grid_has_at_most_as_many_images_as_the_dataset(shapes_root, monkeypatch):
    with pytest.raises(ValueError, match="num_images is 0"):
        prediction_grid("shapes_val", [], 0)
    few = DatasetCatalog.get("shapes_val")[:5]
    for record in few:  # which datasets may lack
        del record["height"], record["width"]
    monkeypatch.setitem(DatasetCatalog.data, "shapes_val", lambda: few)
    grid = prediction_grid("shapes_val", [], 1000)
    assert grid.shape[0] == CAPTION_HEIGHT + 3 * 320 + 4 * GAP


def test_real_images_of_different_sizes(coco_sample):
    name = "coco_sample_for_grid"
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    coco = coco_sample / "coco"
    json_file = coco / "annotations" / "instances_val2017.json"
    register_coco_instances(name, {}, str(json_file), str(coco / "val2017"))
    try:
        grid = prediction_grid(name, [], num_images=4)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert grid.shape[1] == 2 * (2 * 640 + GAP) + 6 * GAP
    assert grid.std() > 30


def test_contact_grid_shows_annotations_of_images_four_to_a_row(shapes_root):
    records = DatasetCatalog.get("shapes_val")[:5]
    grid = contact_grid(records, ["a", "b", "c", "d", "e"], num_images=9)
    row = CAPTION_HEIGHT + 320 + GAP
    assert grid.shape == (GAP + 2 * row, GAP + 4 * (320 + GAP), 3)
    paper = np.full((row, 320, 3), 255, np.uint8)
    np.testing.assert_array_equal(grid[row + GAP :][:row, 2 * GAP + 320 :][:, :320], paper)
    for number, record in enumerate(records[:4]):
        left = GAP + number * (320 + GAP)
        panel = grid[GAP + CAPTION_HEIGHT :][:320, left : left + 320]
        for annotation in record["annotations"]:
            colour = class_colour(annotation["category_id"])
            assert (np.abs(panel.astype(int) - colour).max(axis=2) < 3).sum() > 50
        # Its name stands above it.
        title = grid[GAP : GAP + CAPTION_HEIGHT, left : left + 320]
        assert (title < 100).any()


def test_images_are_drawn_upright(tmp_path):
    """As their annotations have it, with the orientation that the file gives."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40), (90, 90, 90)).save(tmp_path / "image.png", exif=exif)
    record = {"file_name": str(tmp_path / "image.png"), "annotations": []}
    grid = contact_grid([record], [])
    grey = (grid[GAP + CAPTION_HEIGHT :] == 90).all(axis=2)
    rows, columns = grey.any(axis=1).sum(), grey.any(axis=0).sum()
    assert (rows, columns) == (320, 213)
