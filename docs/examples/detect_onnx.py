"""The bare calls behind `mvit_det.runtime.OnnxPredictor`: nothing of this project is imported.

python docs/examples/detect_onnx.py detector.onnx photo.jpg

Needs numpy, pillow and onnxruntime. A port to C++ takes the same steps: read the metadata, resize,
copy into the canvas, run, scale the boxes back, resample the masks.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model_path, image_path = sys.argv[1:]
session = onnxruntime.InferenceSession(model_path, providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["mvit_det"])
canvas_height, canvas_width = metadata["size"]

# 1. Resize as in training, or as far as the canvas allows, with the aspect ratio kept.
image = Image.open(image_path).convert("RGB")
scale = 1.0
if metadata["short_edge"]:
    scale = metadata["short_edge"] / min(image.size)
    if metadata["max_size"]:
        scale = min(scale, metadata["max_size"] / max(image.size))
scale = min(scale, canvas_width / image.width, canvas_height / image.height)
width, height = (max(int(side * scale + 0.5), 1) for side in image.size)
pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
if metadata["channel_order"] == "BGR":
    pixels = pixels[:, :, ::-1]

# 2. Copy into the upper left corner of the canvas: (1, 3, H, W) uint8. Normalisation, padding,
#    anchors and NMS are in the file.
canvas = np.zeros((1, 3, canvas_height, canvas_width), np.uint8)
canvas[0, :, :height, :width] = pixels.transpose(2, 0, 1)
inputs = {"image": canvas, "image_size": np.array([height, width], np.int64)}
outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, inputs)))

# 3. Scale the boxes back to the image.
factors = np.array([image.width / width, image.height / height] * 2, np.float32)
boxes = np.clip(outputs["boxes"] * factors, 0, [*image.size, *image.size])

for index, (box, score, label) in enumerate(zip(boxes, outputs["scores"], outputs["classes"])):
    if score < 0.5:
        break  # the best come first
    line = f"{metadata['class_names'][label]} {score:.2f}: " + " ".join(f"{x:.1f}" for x in box)
    # 4. A mask is (28, 28), stretched over its box. Cells of at least 0.5 belong to the instance.
    if "masks" in outputs:
        x0, y0, x1, y1 = box.round().astype(int)
        size = max(x1 - x0, 1), max(y1 - y0, 1)
        cells = Image.fromarray(outputs["masks"][index])
        mask = np.asarray(cells.resize(size, Image.Resampling.BILINEAR)) >= 0.5
        line += f", {mask.sum()} pixels"
    print(line)
