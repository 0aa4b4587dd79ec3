"""From a trained model to a file for ONNX Runtime, OpenVINO or PyTorch."""

import io
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from ..data.folders import new_file
from ..errors import ExportError, OutputError
from ..runtime.metadata import KEY, Metadata
from ..runtime.sessions import import_extra, openvino_core
from .nms import onnx_translations
from .preparation import Exportable

# The extension of each format's file.
FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
LOWEST_OPSET = 18


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
        if file_format != "openvino":
            with new_file(output) as temporary:
                if file_format == "torch":
                    _write_torch(exportable, temporary)
                else:
                    write_onnx(exportable, temporary, opset)
        else:
            core = openvino_core()
            with tempfile.TemporaryDirectory() as folder:
                write_onnx(exportable, Path(folder, "model.onnx"), opset)
                model = core.read_model(Path(folder, "model.onnx"))
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
        names = list(exportable.graph(**inputs))
        program = torch.onnx.export(
            exportable.graph,
            kwargs=inputs,
            dynamo=True,
            opset_version=opset,
            input_names=list(inputs),
            output_names=names,
            dynamic_shapes=exportable.dynamic_shapes,
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    _check_open_axes(program, exportable)
    for index, node in enumerate(program.model.graph):
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")
        modules = [scope for scope in scopes.strip("[]").replace("'", "").split(", ") if scope]
        module = modules[-2] if len(modules) > 1 else "graph"
        node.name = f"{module}/{node.op_type}_{index}"
        node.metadata_props.clear()
    program.model.metadata_props[KEY] = exportable.metadata.to_json()
    program.save(str(output), external_data=None)


def save_openvino(model: Any, metadata: Metadata, output: Path) -> None:
    """Writes an OpenVINO model with its metadata, weights in the types that they have.

    Raises:
        OSError: the file cannot be written; an older one stays as it is.
    """
    model.set_rt_info(metadata.to_json(), [KEY])
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as folder:
        unfinished = Path(folder, output.name)
        try:
            import_extra("openvino", "openvino").save_model(
                model, unfinished, compress_to_fp16=False
            )
        except RuntimeError as error:
            raise OSError(str(error).splitlines()[-1]) from error
        for suffix in (".bin", ".xml"):
            os.replace(unfinished.with_suffix(suffix), output.with_suffix(suffix))


def _check_open_axes(program: Any, exportable: Exportable) -> None:
    """Finds axes that the exporter has fixed silently.

    Raises:
        ExportError: there are some.
    """
    shapes = {each.name: each.shape for each in program.model.graph.inputs}
    for name, axes in (exportable.dynamic_shapes or {}).items():
        for axis in axes:
            if isinstance(shapes[name][axis], int):
                raise ExportError(
                    f"the exporter fixed axis {axis} of '{name}' at {shapes[name][axis]}, but it "
                    "has to stay open; let the model use x.shape[…] instead of len(x)"
                )


def _write_torch(exportable: Exportable, output: Path) -> None:
    with torch.no_grad(), _Quiet():
        program = torch.export.export(
            exportable.graph,
            tuple(exportable.example().values()),
            dynamic_shapes=exportable.dynamic_shapes,
            strict=False,
        )
    # PyTorch's own writer ends the process where the disk is full.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={KEY: exportable.metadata.to_json()})
    output.write_bytes(content.getbuffer())


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
