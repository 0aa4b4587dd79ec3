import copy
import pickle
from pathlib import Path

import detectron2.data
import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog
from PIL import Image

from mvit_det.data import DatasetMapper
from mvit_det.errors import ImageError

AUGMENTATIONS = [
    T.RandomFlip(),
    T.ResizeShortestEdge([80, 112], sample_style="choice"),
]


def sample(mapper, record):
    np.random.seed(0)
    return mapper(record)


def same(one, other):
    """Whether two samples are equal in all that they hold."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        if key == "instances":
            assert value.image_size == other[key].image_size
            fields = value.get_fields()
            assert fields.keys() == other[key].get_fields().keys()
            torch.testing.assert_close(value.gt_boxes.tensor, other[key].gt_boxes.tensor)
            assert torch.equal(value.gt_classes, other[key].gt_classes)
            if "gt_masks" in fields:
                for polygons, expected in zip(value.gt_masks, other[key].gt_masks, strict=True):
                    np.testing.assert_array_equal(
                        np.concatenate(polygons), np.concatenate(expected)
                    )
        elif isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype
            assert torch.equal(value, other[key])
        else:
            assert value == other[key]
    return True


@pytest.fixture(scope="module")
def cropping():
    """The augmentations of the published trainings; with both of them, crops cut polygons."""
    folder = Path(__file__).resolve().parents[2] / "configs" / "common" / "data"
    return {
        name: instantiate(LazyConfig.load(str(folder / f"{name}.py")).dataloader.train.mapper)
        for name in ("coco", "coco_lsj")
    }


@pytest.fixture
def record(shapes_root):
    return DatasetCatalog.get("shapes_val")[3]


@pytest.mark.parametrize(
    "options",
    [
        dict(is_train=True, use_instance_mask=True),
        dict(is_train=True, use_instance_mask=True, recompute_boxes=True),
        dict(is_train=True),
        dict(is_train=False),
    ],
    ids=lambda options: "-".join(key for key, value in options.items() if value) or "test",
)
def test_samples_are_those_of_detectron2(options, shapes_root):
    ours, theirs = (
        mapper(augmentations=AUGMENTATIONS, image_format="BGR", **options)
        for mapper in (DatasetMapper, detectron2.data.DatasetMapper)
    )
    for record in DatasetCatalog.get("shapes_val")[:8]:
        before = copy.deepcopy(record)
        assert same(sample(ours, record), sample(theirs, record))
        assert record == before


@pytest.mark.parametrize("name", ["coco", "coco_lsj"])
def test_published_augmentations_crop_images_with_masks(name, cropping, shapes_root):
    mapper = cropping[name]
    np.random.seed(0)
    for record in DatasetCatalog.get("shapes_val")[:6]:
        instances = mapper(record)["instances"]
        masks, boxes = instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor
        assert len(masks) == len(boxes) > 0
        assert (masks[:, :2] >= boxes[:, :2] - 1).all()
        assert (masks[:, 2:] <= boxes[:, 2:] + 1).all()


def test_label_maps_are_augmented_with_their_image(record, tmp_path):
    labels = np.arange(128 * 128, dtype=np.uint8).reshape(128, 128) % 21
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {**record, "sem_seg_file_name": str(tmp_path / "labels.png")}
    options = dict(augmentations=AUGMENTATIONS, image_format="RGB", use_instance_mask=True)
    ours = sample(DatasetMapper(is_train=True, **options), record)
    theirs = sample(detectron2.data.DatasetMapper(is_train=True, **options), record)
    assert same(ours, theirs)
    assert ours["sem_seg"].dtype == torch.int64


def test_indexes_into_a_palette_are_labels(record, tmp_path):
    image = Image.fromarray(np.full((128, 128), 7, np.uint8), "L").convert("P")
    image.putpalette(range(255, -1, -1))
    image.save(tmp_path / "labels.png")
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    labels = mapper({**record, "sem_seg_file_name": str(tmp_path / "labels.png")})["sem_seg"]
    assert labels.unique().tolist() == [7]


@pytest.mark.parametrize("recompute_boxes", [False, True])
def test_a_image_of_crowds_alone_has_no_instances(recompute_boxes, record):
    for annotation in record["annotations"]:
        annotation["iscrowd"] = 1
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[],
        image_format="RGB",
        use_instance_mask=True,
        recompute_boxes=recompute_boxes,
    )
    assert len(mapper(record)["instances"]) == 0


def test_errors_reach_the_process_that_asked(tmp_path):
    """Workers send them as pickles."""
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="RGB")
    with pytest.raises(ImageError) as raised:
        mapper({"file_name": str(tmp_path / "none.png"), "annotations": []})
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
