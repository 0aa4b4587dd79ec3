"""Inference of a model in PyTorch, ONNX Runtime and OpenVINO, side by side on the CPU."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from torch import nn

from ..config import load_config
from ..errors import ConfigError
from ..export import Exportable, export, prepare
from ..export.exporting import save_openvino
from ..export.quantization import quantize
from ..model_zoo import configs_folder
from ..runtime import Metadata, OnnxPredictor, OpenVinoPredictor
from ..runtime.preprocessing import letterbox
from ..runtime.sessions import OnnxSession, OpenVinoSession, Session, import_extra
from .case import DETECTOR_SIZES, VIDEO_SIZES
from .comparison import alternate
from .report import format_seconds, format_table

PYTORCH = ("pytorch", "pytorch compiled", "pytorch bf16")
OPENVINO = ("openvino", "openvino bf16", "openvino int8")
RUNTIMES = (*PYTORCH, "onnxruntime", *OPENVINO)
PARTS = ("detector", "backbone", "video")
# Images for int8's calibration; enough for times, which do not depend on the ranges.
CALIBRATION = 2

Run = Callable[[], Any]


@dataclass(frozen=True)
class RuntimeRow:
    """Times of one runtime.

    Attributes:
        part: one of `PARTS`.
        runtime: one of `RUNTIMES`.
        latencies: seconds for one image or clip, of all repeats.
        throughput: images or clips per second with as many requests at a time as the runtime
            prefers; None where that is one.
    """

    part: str
    runtime: str
    latencies: tuple[float, ...]
    throughput: float | None = None


def compare_runtimes(
    size: str,
    image_size: tuple[int, int],
    folder: Path,
    *,
    parts: Sequence[str] = ("detector", "backbone"),
    runtimes: Sequence[str] = RUNTIMES,
    repeats: int = 5,
    threads: int = 0,
) -> Iterator[RuntimeRow]:
    """Measures runtimes by turns, on one image as large as the canvas, or one clip.

    A detector gets weights with which it finds as many instances as it may return, and its time
    includes pasting their masks. That of a video classifier is the model's alone.

    Args:
        size: of the model, one of `DETECTOR_SIZES`, or of `VIDEO_SIZES`.
        image_size: height and width in pixels.
        folder: for exported files, which later runs with the same versions use again.
        parts: some of `PARTS`.
        runtimes: some of `RUNTIMES`.
        repeats: of each runtime.
        threads: of each runtime; 0 leaves the choice to them.

    Yields:
        A row for each part and runtime.

    Raises:
        ConfigError: there is no Mask R-CNN or video model of the size.
        ExportError: the image size does not fit the model, or an extra is not installed.
    """
    for part in parts:
        kind, sizes = ("Mask R-CNN", DETECTOR_SIZES)
        if part == "video":
            kind, sizes = ("video model", VIDEO_SIZES)
        if size not in sizes:
            raise ConfigError(f"there is no {kind} of size {size}; there are {', '.join(sizes)}")
        files = folder / f"{part}-{size}-{image_size[0]}x{image_size[1]}"
        files.mkdir(parents=True, exist_ok=True)
        exportable = _prepare(size, image_size, part, files)
        image = _noise(exportable)
        runs = {name: _make_run(name, exportable, image, threads, files) for name in runtimes}
        latencies = alternate(runs, repeats, warmup=1)
        del runs
        for name in runtimes:
            throughput = None
            if name in OPENVINO:
                path = _path(name, exportable, image, files)
                throughput = _throughput(path, name, image, threads, repeats)
            yield RuntimeRow(part, name, latencies[name], throughput)


def format_runtimes(rows: Iterable[RuntimeRow]) -> str:
    """Formats a Markdown table; speed-ups are over PyTorch in the same type."""
    rows = list(rows)
    medians = {(row.part, row.runtime): median(row.latencies) for row in rows}
    lines = []
    for row in rows:
        base = "pytorch bf16" if row.runtime.endswith("bf16") else "pytorch"
        of_pytorch = medians.get((row.part, base))
        lines.append(
            [
                row.part,
                row.runtime,
                format_seconds(row.latencies),
                f"{of_pytorch / median(row.latencies):.2f}×" if of_pytorch else "",
                "" if row.throughput is None else f"{row.throughput:.2f}",
            ]
        )
    unit = "clips" if {row.part for row in rows} == {"video"} else "images"
    header = ["of", "runtime", "latency", "speed-up", f"{unit}/s in streams"]
    return format_table(header, lines)


def _prepare(size: str, image_size: tuple[int, int], part: str, folder: Path) -> Exportable:
    is_video = part == "video"
    if size == "pico":
        name = "shapes/video_mvitv2_pico.py" if is_video else "shapes/mask_rcnn_mvitv2_pico.py"
    else:
        name = f"Kinetics/mvitv2_{size}.py" if is_video else f"COCO/mask_rcnn_mvitv2_{size}.py"
    config = load_config(configs_folder() / name)
    torch.manual_seed(0)
    model: Any = instantiate(config.model)
    if not is_video:
        # Certain of most regions, so that there are more instances than may be returned.
        model.roi_heads.box_predictor.cls_score.weight.data.mul_(100)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    return prepare(
        config,
        folder / "weights.pth",
        size=image_size,
        part="backbone" if part == "backbone" else "model",
    )


def _noise(exportable: Exportable) -> np.ndarray:
    """An image as large as the canvas, (H, W, 3) uint8, or a clip, (1, 3, T, S, S) uint8."""
    image = exportable.example()["image"][:1].numpy()
    return image if image.ndim == 5 else np.ascontiguousarray(image[0].transpose(1, 2, 0))


def _inputs(image: np.ndarray, metadata: Metadata) -> list[np.ndarray]:
    """The inputs of an exported file."""
    return [image] if image.ndim == 5 else list(letterbox(image, metadata))


def _path(name: str, exportable: Exportable, image: np.ndarray, folder: Path) -> Path:
    """The exported file for a runtime, which is written when it is first needed."""
    metadata = exportable.metadata
    if name == "onnxruntime":
        path = folder / "model.onnx"
        if _metadata(OnnxSession, path) != metadata:
            export(exportable, path, "onnx")
        return path
    path = folder / "model.xml"
    if _metadata(OpenVinoSession, path) != metadata:
        export(exportable, path, "openvino")
    if name != "openvino int8":
        return path
    quantized_path = folder / "int8.xml"
    if _metadata(OpenVinoSession, quantized_path) != replace(metadata, precision="int8"):
        quantized, _ = quantize(path, [image] * CALIBRATION)
        save_openvino(quantized, replace(metadata, precision="int8"), quantized_path)
    return quantized_path


def _metadata(session: Callable[[Path], Session], path: Path) -> Metadata | None:
    """The metadata of a file; None if there is none."""
    return session(path).metadata if path.exists() else None


def _make_run(
    name: str, exportable: Exportable, image: np.ndarray, threads: int, folder: Path
) -> Run:
    if name in PYTORCH:
        return _pytorch_run(name, exportable, image)
    path = _path(name, exportable, image, folder)
    options: dict[str, Any] = {"threads": threads}
    if name in OPENVINO:
        # Layers that are not in int8 run in bf16 where the processor can.
        options.update(precision="fp32" if name == "openvino" else "bf16", batch=1)
    if exportable.metadata.task == "detection":
        predictor_class = OpenVinoPredictor if name in OPENVINO else OnnxPredictor
        predictor = predictor_class(path, **options)
        return lambda: predictor(image)
    session = (OpenVinoSession if name in OPENVINO else OnnxSession)(path, **options)
    inputs = _inputs(image, exportable.metadata)
    return lambda: session.run(*inputs)


def _pytorch_run(name: str, exportable: Exportable, image: np.ndarray) -> Run:
    model: Any = exportable.model
    graph: Any = exportable.graph
    canvas = torch.from_numpy(_inputs(image, exportable.metadata)[0])
    is_detector = exportable.metadata.task == "detection"
    # The part that runs in the autocast type and can be compiled: all of a video classifier.
    backbone: nn.Module = model.backbone if is_detector else model
    if exportable.metadata.task == "video_classification":
        backbone = model.classifier
    compiled = torch.compile(backbone) if name == "pytorch compiled" else backbone

    @contextmanager
    def using_backbone() -> Iterator[None]:
        if is_detector:
            model.backbone = compiled
        try:
            yield
        finally:
            if is_detector:
                model.backbone = backbone

    @torch.inference_mode()
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "pytorch bf16"):
            if is_detector:
                with using_backbone():
                    model([{"image": canvas[0]}])
            else:
                compiled((canvas - graph.pixel_mean) / graph.pixel_std)

    return run


def _throughput(path: Path, name: str, image: np.ndarray, threads: int, repeats: int) -> float:
    """Images per second in as many parallel streams as OpenVINO chooses."""
    openvino = import_extra("openvino", "openvino")
    precision = "fp32" if name == "openvino" else "bf16"
    session = OpenVinoSession(
        path,
        precision=precision,
        threads=threads,
        batch=1,
        options={"PERFORMANCE_HINT": "THROUGHPUT"},
    )
    inputs = _inputs(image, session.metadata)
    queue = openvino.AsyncInferQueue(session.compiled)
    for _ in range(len(queue)):
        queue.start_async(inputs)
    queue.wait_all()
    count = max(2 * len(queue), repeats)
    start = time.perf_counter()
    for _ in range(count):
        queue.start_async(inputs)
    queue.wait_all()
    return count / (time.perf_counter() - start)
