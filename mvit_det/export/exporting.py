"""From a trained model to a file for ONNX Runtime, OpenVINO or PyTorch."""

import hashlib
import importlib.metadata
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import torch
from detectron2.config import instantiate
from detectron2.modeling import RetinaNet
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..checkpoint import local_path
from ..config import find_config
from ..errors import ExportError, OutputError
from ..prediction import Predictor
from ..runtime.metadata import KEY, Metadata
from ..runtime.sessions import import_extra
from .checks import check_backbone, check_detector
from .graphs import FeatureGraph, RCNNGraph, RetinaNetGraph
from .nms import onnx_translations

logger = logging.getLogger(__name__)

# The extension of each format's file.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
LOWEST_OPSET = 18
LIBRARIES = ("mvit_det", "torch", "torchvision", "onnx", "onnxscript", "openvino", "nncf")


@dataclass(frozen=True, eq=False)
class Exportable:
    """A model that is ready to be exported.

    Attributes:
        graph: the function of tensors to export, in evaluation mode.
        metadata: of the file.
        model: the model that the graph was made from, the reference for its outputs.
    """

    graph: nn.Module
    metadata: Metadata
    model: nn.Module

    def example(self) -> tuple[Tensor, Tensor]:
        """Inputs to trace with: a canvas of noise, which an image fills up to its last rows."""
        height, width = self.metadata.size
        generator = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, (1, 3, height, width), generator=generator).byte()
        return image, torch.tensor([height - 1, width])


def prepare_detector(
    config: str | Path | DictConfig,
    weights: str | Path | None = None,
    *,
    size: tuple[int, int],
    part: str = "detector",
    score_threshold: float | None = None,
    overrides: Sequence[str] = (),
    trust_checkpoint: bool = False,
) -> Exportable:
    """Loads a detector and makes it exportable.

    Args:
        config: a config file, a loaded config, or the name of a published detector.
        weights: file or URL; by default those of the published detector.
        size: height and width of the canvas into which images are fitted, in pixels.
        part: "detector", or "backbone" for its feature maps without a pyramid.
        score_threshold: detections need a higher score, in [0, 1]; by default the model's
            `test_score_thresh`.
        overrides: changes to the config as `key.of.field=value`.
        trust_checkpoint: lets the file of weights run code while it is read.

    Raises:
        ExportError: the model or its pre-processing cannot be exported, or the size does not fit.
        ConfigError, CheckpointError: as `Predictor`.
    """
    name = "" if isinstance(config, DictConfig) else str(config)
    if not isinstance(config, DictConfig):
        config, published = find_config(config, overrides)
        weights = weights or published
    predictor = Predictor(
        config,
        weights,
        score_threshold=score_threshold,
        device="cpu",
        trust_checkpoint=trust_checkpoint,
    )
    model: Any = predictor.model
    if predictor.detector is not model:
        raise ExportError(
            "the config's 'inference' asks for test-time augmentation or slices, which exported "
            "files do not have; export with inference=null"
        )
    checkpoint = local_path(weights or "")
    short_edge, max_size = _resize_policy(config)
    common: dict[str, Any] = dict(
        size=size,
        channel_order=config.dataloader.test.mapper.image_format,
        short_edge=short_edge,
        max_size=max_size,
        class_names=predictor.class_names,
        category_ids=predictor.category_ids,
        pixel_mean=tuple(model.pixel_mean.flatten().tolist()),
        pixel_std=tuple(model.pixel_std.flatten().tolist()),
        config=name,
        checkpoint=checkpoint.name,
        checkpoint_sha256=_sha256(checkpoint),
        versions=_versions(),
    )
    if part == "backbone":
        check_backbone(model, size)
        backbone = getattr(model.backbone, "bottom_up", model.backbone)
        graph: nn.Module = FeatureGraph(backbone, model.pixel_mean, model.pixel_std)
        return Exportable(graph.eval(), Metadata("features", **common), backbone)
    check_detector(model, size)
    is_retinanet = isinstance(model, RetinaNet)
    graph = RetinaNetGraph(model, size) if is_retinanet else RCNNGraph(model, size)
    return Exportable(
        graph.eval(), Metadata("detection", **common, **_thresholds(model)), model.eval()
    )


def export(
    exportable: Exportable, output: str | Path, file_format: str, opset: int = LOWEST_OPSET
) -> None:
    """Writes a file.

    Args:
        exportable: the model.
        output: path of the file, with the extension of the format; OpenVINO's weights lie beside
            it as `.bin`.
        file_format: one of `FORMATS`.
        opset: version of ONNX's operators, from 18 on.

    Raises:
        ExportError: the format is unknown, the extension is another format's, the opset is not
            supported, or an extra is not installed.
        OutputError: the file cannot be written.
    """
    output = Path(output)
    if file_format not in FORMATS:
        raise ExportError(f"the format is '{file_format}'; it must be one of {', '.join(FORMATS)}")
    if output.suffix != FORMATS[file_format]:
        raise ExportError(
            f"the output is '{output}', but files of the format {file_format} end in "
            f"{FORMATS[file_format]}"
        )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if file_format == "torch":
            _write_torch(exportable, output)
        elif file_format == "onnx":
            write_onnx(exportable, output, opset)
        else:
            import_extra("openvino", "openvino")
            with tempfile.TemporaryDirectory() as folder:
                write_onnx(exportable, Path(folder, "model.onnx"), opset)
                model = (
                    import_extra("openvino", "openvino")
                    .Core()
                    .read_model(Path(folder, "model.onnx"))
                )
                save_openvino(model, exportable.metadata, output)
    except OSError as error:
        raise OutputError(f"cannot write '{output}' ({error.strerror or error})") from error


def write_onnx(exportable: Exportable, output: Path, opset: int = LOWEST_OPSET) -> None:
    """Writes an ONNX file, whose nodes are named after the modules that they come from.

    Raises:
        ExportError: the opset is not supported, or the extra is not installed.
    """
    onnx = import_extra("onnx", "onnx")
    import_extra("onnxscript", "onnx")
    highest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= highest:
        raise ExportError(
            f"the opset is {opset}; it must be from {LOWEST_OPSET} to {highest}, the latest of "
            f"the installed onnx {onnx.__version__}"
        )
    inputs = exportable.example()
    with torch.no_grad(), _Quiet():
        names = list(exportable.graph(*inputs))
        program = torch.onnx.export(
            exportable.graph,
            inputs,
            dynamo=True,
            opset_version=opset,
            input_names=["image", "image_size"],
            output_names=names,
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    for index, node in enumerate(program.model.graph):
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
        modules = [scope for scope in scopes.strip("[]").replace("'", "").split(", ") if scope]
        module = modules[-2] if len(modules) > 1 else "graph"
        node.name = f"{module}/{node.op_type}_{index}"
        node.metadata_props.clear()
    program.model.metadata_props[KEY] = exportable.metadata.to_json()
    program.save(str(output), external_data=None)


def save_openvino(model: Any, metadata: Metadata, output: Path) -> None:
    """Writes an OpenVINO model with its metadata, weights in the types that they have."""
    model.set_rt_info(metadata.to_json(), [KEY])
    import_extra("openvino", "openvino").save_model(model, output, compress_to_fp16=False)


def _write_torch(exportable: Exportable, output: Path) -> None:
    with torch.no_grad(), _Quiet():
        program = torch.export.export(exportable.graph, exportable.example(), strict=False)
    torch.export.save(program, output, extra_files={KEY: exportable.metadata.to_json()})


class _Quiet(warnings.catch_warnings):
    """Silences what exporters print about code that is not the user's."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.getLogger("onnxscript").level
        logging.getLogger("onnxscript").setLevel(logging.ERROR)

    def __exit__(self, *exception: Any) -> None:
        logging.getLogger("onnxscript").setLevel(self._level)
        super().__exit__(*exception)


def _resize_policy(config: DictConfig) -> tuple[int, int]:
    """Shorter side and bound of the longer one, of the test-time resizing; (0, 0) for none.

    Raises:
        ExportError: the config asks for anything else.
    """
    augmentations = instantiate(OmegaConf.select(config, "dataloader.test.mapper.augmentations"))
    match list(augmentations or []):
        case []:
            return 0, 0
        case [T.ResizeShortestEdge() as resize] if len({*resize.short_edge_length}) == 1:
            return int(resize.short_edge_length[0]), min(int(resize.max_size), 2**31 - 1)
    names = ", ".join(type(each).__name__ for each in augmentations)
    raise ExportError(
        f"dataloader.test.mapper.augmentations has {names}; exported files know one "
        "ResizeShortestEdge of one size, or none"
    )


def _thresholds(model: Any) -> dict[str, Any]:
    if isinstance(model, RetinaNet):
        return dict(
            score_threshold=model.test_score_thresh,
            nms_threshold=model.test_nms_thresh,
            max_detections=model.max_detections_per_image,
        )
    predictor = model.roi_heads.box_predictor
    last = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor
    return dict(
        score_threshold=last.test_score_thresh,
        nms_threshold=last.test_nms_thresh,
        max_detections=last.test_topk_per_image,
        has_masks=model.roi_heads.mask_on,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
