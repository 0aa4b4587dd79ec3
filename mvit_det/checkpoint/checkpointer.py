"""Checkpoints of a training run, and the weights it starts from."""

import pickle
import zipfile
from collections.abc import Sequence
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from fvcore.common.checkpoint import _IncompatibleKeys

from ..errors import CheckpointError


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, except that it does not go on with weights that do not fit."""

    def load(self, path: str, checkpointables: Sequence[str] | None = None) -> dict[str, Any]:
        """Loads a file or address into the model, and the state of training if there is one.

        Args:
            path: file, `http(s)://` or `detectron2://` address; '' loads nothing.
            checkpointables: which other objects to load; None loads all there are.

        Raises:
            CheckpointError: the file cannot be had or read, or does not fill the model.
        """
        try:
            return super().load(path, checkpointables)
        except (OSError, AssertionError) as error:
            raise CheckpointError(
                f"cannot get the weights '{path}' ({_first_line(error)}); put the file somewhere "
                "and name it with train.init_checkpoint=…, or start from scratch with "
                "train.init_checkpoint=''"
            ) from error
        except (pickle.UnpicklingError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"'{path}' is not a checkpoint that can be read ({_first_line(error)}); "
                "get it anew or name another with train.init_checkpoint=…"
            ) from error
        finally:
            # Detectron2 keeps this from one call to the next.
            self._parsed_url_during_load = None

    def _log_incompatible_keys(self, incompatible: _IncompatibleKeys) -> None:
        for key, in_file, in_model in incompatible.incorrect_shapes:
            raise CheckpointError(
                f"'{key}' has shape {tuple(in_file)} in the weights and {tuple(in_model)} in the "
                "model; take the config that the weights were made with"
            )
        # Weights of a backbone fill the backbone; those of a detector everything.
        missing = [key for key in incompatible.missing_keys if "pixel_" not in key]
        if any("bottom_up" in key for key in missing):
            raise CheckpointError(
                f"the weights lack {len(missing)} parameters of the model, such as '{missing[0]}'; "
                "take the config that the weights were made with"
            )
        super()._log_incompatible_keys(incompatible)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
