"""A file that one runtime has loaded: arrays in, arrays out."""

import functools
import importlib
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import ConfigError, ExportError
from .metadata import KEY, Metadata

OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class Session(Protocol):
    """A loaded model; `run` takes one array for each of its inputs."""

    metadata: Metadata

    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs, by name."""


class OnnxSession:
    """An ONNX file in ONNX Runtime, on the CPU or other execution providers."""

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 0,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
    ) -> None:
        """Loads a file.

        Args:
            path: of the file.
            threads: of one operator; 0 leaves the choice to ONNX Runtime.
            providers: execution providers, the preferred one first.

        Raises:
            ExportError: ONNX Runtime is not installed, or cannot load the file.
        """
        runtime = import_extra("onnxruntime", "onnx")
        check_file(path, ".onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # its classes of errors have no common base
            remedy = ""
            if type(error).__name__ == "NotImplemented":
                remedy = (
                    f"; ONNX Runtime {runtime.__version__} lacks this operator: export the model "
                    "without --opset, or run the file in OpenVINO"
                )
            raise ExportError(
                f"ONNX Runtime cannot load '{path}': {_last_line(error)}{remedy}"
            ) from error
        entries = self._session.get_modelmeta().custom_metadata_map
        self.metadata = Metadata.from_json(entries.get(KEY), str(path))
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs, by name."""
        outputs = self._session.run(None, dict(zip(self._inputs, inputs)))
        return dict(zip(self._outputs, outputs))


class OpenVinoSession:
    """An OpenVINO IR (.xml beside its .bin) or an ONNX file in OpenVINO.

    Attributes:
        compiled: OpenVINO's compiled model.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        precision: str = "fp32",
        threads: int = 0,
        device: str = "CPU",
        batch: int = 0,
        cache_dir: str | Path | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Loads and compiles a file.

        Args:
            path: of the file.
            precision: of the arithmetic, "fp32" or "bf16"; layers quantised to int8 stay so.
            threads: 0 leaves the choice to OpenVINO.
            device: an OpenVINO device, such as "CPU" or "GPU".
            batch: fixes the open batch of a classifier at this size, which is faster; 0 leaves it
                open.
            cache_dir: folder that keeps compiled models, for a faster start.
            options: further properties of OpenVINO, such as {"PERFORMANCE_HINT": "THROUGHPUT"}.

        Raises:
            ConfigError: the precision is unknown.
            ExportError: OpenVINO is not installed, or cannot load the file.
        """
        core = openvino_core()
        check_file(path, ".xml or .onnx")
        if precision not in OPENVINO_PRECISIONS:
            raise ConfigError(f"precision is '{precision}'; it must be 'fp32' or 'bf16'")
        properties = {"PERFORMANCE_HINT": "LATENCY"}
        if device == "CPU":
            # Left to itself, OpenVINO computes in bf16 where the processor can.
            properties["INFERENCE_PRECISION_HINT"] = OPENVINO_PRECISIONS[precision]
            if threads:
                properties["INFERENCE_NUM_THREADS"] = str(threads)
        if cache_dir is not None:
            properties["CACHE_DIR"] = str(cache_dir)
        try:
            model = core.read_model(str(path))
            # An ONNX file's metadata are in the runtime information of OpenVINO, below "framework".
            where = [KEY] if model.has_rt_info([KEY]) else ["framework", KEY]
            text = model.get_rt_info(where).astype(str) if model.has_rt_info(where) else None
            if batch:
                _fix_batch(model, batch)
            self.compiled = core.compile_model(model, device, {**properties, **(options or {})})
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot load '{path}': {_last_line(error)}") from error
        self.metadata = Metadata.from_json(text, str(path))

    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs, by name."""
        # One request serves one thread at a time.
        outputs = self.compiled.create_infer_request().infer(list(inputs))
        return {key.any_name: value.copy() for key, value in outputs.items()}


def openvino_core() -> Any:
    """OpenVINO's `Core`, one for the whole process.

    Raises:
        ExportError: OpenVINO is not installed.
    """
    return _lasting_core(import_extra("openvino", "openvino"))


def import_extra(module: str, extra: str) -> Any:
    """Imports a library of an optional dependency of this package.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise ExportError(
            f"{module} is not installed; run 'pip install {module}', or install all of the extra "
            f"mvit_det[{extra}]"
        ) from error


def check_file(path: str | Path, extension: str) -> None:
    """Checks that a model file exists.

    Raises:
        ExportError: it does not.
    """
    if not Path(path).is_file():
        raise ExportError(
            f"there is no file '{path}'; give the {extension} file that tools/export.py wrote"
        )


def _fix_batch(model: Any, batch: int) -> None:
    """Gives the first axis of a model's inputs a size, where it has none."""
    shapes = {each: each.partial_shape for each in model.inputs if each.partial_shape.is_dynamic}
    for shape in shapes.values():
        shape[0] = batch
    if shapes:
        model.reshape(shapes)


@functools.cache
def _lasting_core(openvino: Any) -> Any:
    """A `Core` whose CPU plugin is loaded by a thread that ends at once, and never freed.

    The plugin gives the thread that loads it another stack for signal handlers, and frees that
    stack with itself, whichever stack the thread then uses: its next signal, such as Ctrl-C or the
    end of a child process, would be a segmentation fault.
    """
    core = openvino.Core()
    loader = threading.Thread(target=core.get_versions, args=("CPU",))
    loader.start()
    loader.join()
    return core


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
