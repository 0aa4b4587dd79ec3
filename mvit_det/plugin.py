"""Registers backbones and datasets with Detectron2 as soon as it is imported.

Users of Detectron2's YAML configs write `import mvit_det` and expect its registries to know the
backbones; users of `mvit_det.runtime` must not load PyTorch by the same line. So registration waits
for Detectron2: it runs at once where Detectron2 is imported already, and otherwise right after the
module with the registry has been executed.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def _register_backbones() -> None:
    importlib.import_module("mvit_det.backbone")


def _register_datasets() -> None:
    importlib.import_module("mvit_det.data.shapes").register_shapes()


_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "detectron2.modeling": _register_backbones,
    "detectron2.data": _register_datasets,
}


def register_when_imported() -> None:
    """Registers with the modules of Detectron2 that are imported, and later with the others."""
    for name, register in _REGISTRATIONS.items():
        if sys.modules.get(name) is not None:
            register()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds Detectron2's modules as Python does, and has registries followed by registration."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != "detectron2":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            with warnings.catch_warnings():
                # Detectron2 scripts some functions when it is imported.
                warnings.filterwarnings("ignore", "`torch.jit.script", FutureWarning)
                execute(module)
            _REGISTRATIONS.get(name, _nothing)()

        loader.exec_module = execute_and_register
        return spec


def _nothing() -> None:
    """For modules without a registry."""
