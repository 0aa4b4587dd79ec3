"""Datasets in COCO's format written in other formats."""

import base64
import io
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as mask_util


def by_image(content):
    found = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    return [(image, found[image["id"]]) for image in content["images"]]


def decode(segmentation, image):
    """The mask (H, W) of COCO's segmentation in any of its forms."""
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, image["height"], image["width"])
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(segmentation)
    return mask_util.decode(segmentation)


def write_yolo(content, images, folder, split="train", masks=True):
    """YOLO's folders; the first polygon stands for an object."""
    names = {each["id"]: each["name"] for each in content["categories"]}
    numbers = {category: number for number, category in enumerate(sorted(names))}
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True)
    for image, annotations in by_image(content):
        shutil.copy(images / image["file_name"], folder / "images" / split)
        width, height = image["width"], image["height"]
        lines = []
        for each in annotations:
            x, y, w, h = each["bbox"]
            numbers_of_line = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
            if masks and isinstance(each.get("segmentation"), list):
                scale = np.tile([width, height], len(each["segmentation"][0]) // 2)
                numbers_of_line = list(np.asarray(each["segmentation"][0]) / scale)
            lines.append(f"{numbers[each['category_id']]} " + " ".join(
                f"{number:.6f}" for number in numbers_of_line))  # fmt: skip
        name = Path(image["file_name"]).with_suffix(".txt").name
        if lines:
            (folder / "labels" / split / name).write_text("\n".join(lines) + "\n")
    path = folder / "data.yaml"
    described = yaml.safe_load(path.read_text()) if path.exists() else {}
    described[split] = f"images/{split}"
    described["names"] = [names[category] for category in sorted(names)]
    path.write_text(yaml.safe_dump(described))
    return folder


def write_voc(content, images, folder):
    names = {each["id"]: each["name"] for each in content["categories"]}
    for kind in ("Annotations", "JPEGImages"):
        (folder / kind).mkdir(parents=True)
    for image, annotations in by_image(content):
        shutil.copy(images / image["file_name"], folder / "JPEGImages")
        objects = ""
        for each in annotations:
            x, y, w, h = each["bbox"]
            objects += (
                f"<object><name>{names[each['category_id']]}</name>"
                f"<difficult>{each['iscrowd']}</difficult><bndbox><xmin>{x + 1!r}</xmin>"
                f"<ymin>{y + 1!r}</ymin><xmax>{x + w!r}</xmax><ymax>{y + h!r}</ymax></bndbox>"
                "</object>"
            )
        (folder / "Annotations" / Path(image["file_name"]).with_suffix(".xml").name).write_text(
            f"<annotation><filename>{image['file_name']}</filename><size><width>{image['width']}"
            f"</width><height>{image['height']}</height><depth>3</depth></size>{objects}</annotation>"
        )
    return folder


def write_labelme(content, images, folder):
    """Polygons, of which those of an object share a group; crowds as masks."""
    names = {each["id"]: each["name"] for each in content["categories"]}
    folder.mkdir(parents=True)
    for image, annotations in by_image(content):
        shutil.copy(images / image["file_name"], folder)
        shapes = []
        for each in annotations:
            common = {"label": names[each["category_id"]], "group_id": each["id"]}
            if isinstance(each["segmentation"], dict):
                mask = decode(each["segmentation"], image)
                png = io.BytesIO()
                Image.fromarray(mask * 255).save(png, "PNG")
                corners = [[0, 0], [image["width"], image["height"]]]
                encoded = base64.b64encode(png.getvalue()).decode()
                shapes.append({**common, "shape_type": "mask", "points": corners, "mask": encoded})
                continue
            for polygon in each["segmentation"]:
                points = np.reshape(polygon, (-1, 2)).tolist()
                shapes.append({**common, "shape_type": "polygon", "points": points})
        path = folder / Path(image["file_name"]).with_suffix(".json").name
        path.write_text(json.dumps({"shapes": shapes, "imagePath": image["file_name"]}))
    return folder


@pytest.fixture(scope="session")
def writers():
    return {"YOLO": write_yolo, "Pascal VOC": write_voc, "LabelMe": write_labelme}
