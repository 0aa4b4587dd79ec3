"""Image classifiers in exported files, with the interface of `mvit_det.Classifier`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from .checks import check_count, check_task
from .preprocessing import Source, load_image, prepare_inputs
from .sessions import OnnxSession, OpenVinoSession, Session


@dataclass(frozen=True)
class ClassScore:
    """A class of an image or a clip.

    Attributes:
        class_id: index into the model's classes.
        name: of the class.
        score: probability in [0, 1].
    """

    class_id: int
    name: str
    score: float


def rank_classes(scores: np.ndarray, class_names: Sequence[str], top: int) -> list[ClassScore]:
    """The `top` classes, the most probable first, from (classes,) scores."""
    order = np.argsort(-scores, kind="stable")[:top].tolist()
    return [ClassScore(index, class_names[index], float(scores[index])) for index in order]


class RuntimeClassifier:
    """An image classifier in an exported file.

    Attributes:
        class_names: one for each class.
        session: the loaded file.
    """

    def __init__(self, session: Session, top: int = 5) -> None:
        """Takes a loaded file.

        Args:
            session: of a classifier.
            top: number of classes to return for each image.

        Raises:
            ConfigError: `top` is below 1.
            ExportError: the file is no image classifier.
        """
        check_count("top", top)
        check_task(session.metadata, "classification")
        self.session = session
        self.top = top
        self.class_names = session.metadata.class_names

    @overload
    def __call__(self, images: Source) -> list[ClassScore]: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[list[ClassScore]]: ...

    def __call__(self, images: Source | list[Any] | tuple[Any, ...]) -> Any:
        """Finds the most probable classes of one image or several.

        Args:
            images: the path of an image; an array (H, W, 3) uint8 RGB; or a list or tuple of these.

        Returns:
            The `top` classes, the most probable first; for a list one such list for each image.

        Raises:
            ImageError: an image cannot be read, or an array is no such image.
        """
        if isinstance(images, (list, tuple)):
            return [self._best(image) for image in images]
        return self._best(images)

    def scores(self, image: Source) -> np.ndarray:
        """Probabilities of all classes, (classes,) float32.

        Raises:
            ImageError: as a call.
        """
        inputs = prepare_inputs(load_image(image), self.session.metadata)
        scores: np.ndarray = self.session.run(*inputs)["scores"][0]
        return scores

    def _best(self, image: Source) -> list[ClassScore]:
        return rank_classes(self.scores(image), self.class_names, self.top)


class OnnxClassifier(RuntimeClassifier):
    """An image classifier in ONNX Runtime.

    classifier = OnnxClassifier("classifier.onnx", top=3)
    for best in classifier("photo.jpg"):
        print(f"{best.score:.1%}  {best.name}")
    """

    def __init__(self, path: str | Path, *, top: int = 5, **options: Any) -> None:
        """Loads a file.

        Args:
            path: of the file.
            top: number of classes to return for each image.
            options: of `OnnxSession`.

        Raises:
            ConfigError, ExportError: as `RuntimeClassifier` and `OnnxSession`.
        """
        super().__init__(OnnxSession(path, **options), top)


class OpenVinoClassifier(RuntimeClassifier):
    """An image classifier in OpenVINO, from its own format (.xml) or from ONNX."""

    def __init__(self, path: str | Path, *, top: int = 5, **options: Any) -> None:
        """Loads a file.

        Args:
            path: of the file.
            top: number of classes to return for each image.
            options: of `OpenVinoSession`, such as `precision` and `threads`.

        Raises:
            ConfigError, ExportError: as `RuntimeClassifier` and `OpenVinoSession`.
        """
        super().__init__(OpenVinoSession(path, **{"batch": 1, **options}), top)
