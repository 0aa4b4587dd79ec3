"""A file of the format `torch`, with the interface of the runtimes' sessions."""

from pathlib import Path

import numpy as np
import torch

from ..errors import ExportError
from ..runtime.metadata import KEY, Metadata
from ..runtime.sessions import check_file


class TorchSession:
    """A program that `torch.export` saved; needs PyTorch and torchvision."""

    def __init__(self, path: str | Path) -> None:
        """Loads a file.

        Raises:
            ExportError: it does not exist, or `tools/export.py` did not write it.
        """
        check_file(path, ".pt2")
        entries = {KEY: ""}
        try:
            self._module = torch.export.load(path, extra_files=entries).module()
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"PyTorch cannot load '{path}': {error}") from error
        self.metadata = Metadata.from_json(entries[KEY], str(path))

    @torch.no_grad()
    def run(self, *inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Computes the outputs, by name."""
        outputs = self._module(*map(torch.from_numpy, inputs))
        return {name: value.numpy() for name, value in outputs.items()}
