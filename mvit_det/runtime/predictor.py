"""Predictors for exported detectors, with the interface of `mvit_det.Predictor`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..errors import ConfigError, ExportError
from .checks import check_task
from .masks import paste_masks
from .metadata import Metadata
from .prediction import RuntimePrediction
from .preprocessing import Source, fitted_size, letterbox, load_image
from .sessions import OnnxSession, OpenVinoSession, Session

Paths = str | Path | Sequence[str | Path]


class RuntimePredictor:
    """A detector of one or several exported files, which differ in the size of their canvas.

    Of several files, such as one for landscape and one for portrait format, an image goes through
    the one that shrinks it least.

    Attributes:
        class_names: one for each class.
        sessions: the loaded files.
    """

    def __init__(self, sessions: Sequence[Session], score_threshold: float | None = None) -> None:
        """Takes loaded files.

        Args:
            sessions: at least one; all of the same detector.
            score_threshold: lowest score of an instance, in [0, 1]; by default that of the export.

        Raises:
            ConfigError: there is no file, or the threshold is out of its range or below that of
                the export.
            ExportError: a file is no detector, or the files differ in their classes.
        """
        self.sessions = list(sessions)
        if not self.sessions:
            raise ConfigError("there are no files to predict with; name at least one")
        for session in self.sessions:
            metadata = session.metadata
            check_task(metadata, "detection")
            if metadata.class_names != self.sessions[0].metadata.class_names:
                raise ExportError(
                    "the files differ in their classes: "
                    f"{', '.join(metadata.class_names)} and "
                    f"{', '.join(self.sessions[0].metadata.class_names)}"
                )
            if score_threshold is not None and not metadata.score_threshold <= score_threshold <= 1:
                raise ConfigError(
                    f"score_threshold is {score_threshold}; it must be from "
                    f"{metadata.score_threshold}, that of the export, to 1"
                )
        self.score_threshold = score_threshold
        self.class_names = self.sessions[0].metadata.class_names

    @overload
    def __call__(self, images: Source) -> RuntimePrediction: ...

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[RuntimePrediction]: ...

    def __call__(
        self, images: Source | list[Any] | tuple[Any, ...]
    ) -> RuntimePrediction | list[RuntimePrediction]:
        """Finds instances in one image or several.

        Args:
            images: the path of an image; an array (H, W, 3) uint8 RGB; or a list or tuple of these.

        Returns:
            A prediction; for a list one for each image, in the order of the list.

        Raises:
            ImageError: an image cannot be read, or an array is no such image.
        """
        if isinstance(images, (list, tuple)):
            return [self._predict(load_image(image)) for image in images]
        return self._predict(load_image(images))

    def session_for(self, image: np.ndarray) -> Session:
        """The file that shrinks an image least, the one with the smallest canvas among equals."""

        def fit(session: Session) -> tuple[int, int]:
            height, width = fitted_size(image.shape[0], image.shape[1], session.metadata)
            return height * width, -session.metadata.size[0] * session.metadata.size[1]

        return max(self.sessions, key=fit)

    def _predict(self, image: np.ndarray) -> RuntimePrediction:
        session = self.session_for(image)
        canvas, size = letterbox(image, session.metadata)
        outputs = session.run(canvas, size)
        return to_prediction(outputs, image, size, session.metadata, self.score_threshold)


class OnnxPredictor(RuntimePredictor):
    """A detector in ONNX Runtime.

    predictor = OnnxPredictor("detector.onnx", score_threshold=0.5)
    prediction = predictor("photo.jpg")
    prediction.boxes, prediction.scores, prediction.classes, prediction.masks
    prediction.save("photo_with_boxes.jpg")
    """

    def __init__(
        self, paths: Paths, *, score_threshold: float | None = None, **options: Any
    ) -> None:
        """Loads files.

        Args:
            paths: of one file or several, as `RuntimePredictor` says.
            score_threshold: lowest score of an instance, in [0, 1]; by default that of the export.
            options: of `OnnxSession`.

        Raises:
            ConfigError, ExportError: as `RuntimePredictor` and `OnnxSession`.
        """
        super().__init__([OnnxSession(path, **options) for path in _listed(paths)], score_threshold)


class OpenVinoPredictor(RuntimePredictor):
    """A detector in OpenVINO, from its own format (.xml) or from ONNX.

    predictor = OpenVinoPredictor("detector.xml", score_threshold=0.5, precision="bf16")
    """

    def __init__(
        self, paths: Paths, *, score_threshold: float | None = None, **options: Any
    ) -> None:
        """Loads files.

        Args:
            paths: of one file or several, as `RuntimePredictor` says.
            score_threshold: lowest score of an instance, in [0, 1]; by default that of the export.
            options: of `OpenVinoSession`, such as `precision` and `threads`.

        Raises:
            ConfigError, ExportError: as `RuntimePredictor` and `OpenVinoSession`.
        """
        super().__init__(
            [OpenVinoSession(path, **options) for path in _listed(paths)], score_threshold
        )


def to_prediction(
    outputs: dict[str, np.ndarray],
    image: np.ndarray,
    size: np.ndarray,
    metadata: Metadata,
    score_threshold: float | None = None,
) -> RuntimePrediction:
    """Moves a detector's outputs from the canvas to the image.

    Args:
        outputs: `boxes` (N, 4) in pixels of the canvas, `scores` (N,), `classes` (N,) and maybe
            `masks` (N, M, M) in [0, 1], best first.
        image: (H, W, 3) uint8 RGB.
        size: height and width of the image on the canvas.
        metadata: of the model.
        score_threshold: instances need a higher score; None keeps all.
    """
    height, width = image.shape[:2]
    limits = np.array([width, height, width, height], np.float32)
    scale = limits / size[[1, 0, 1, 0]].astype(np.float32)
    boxes = np.clip(outputs["boxes"] * scale, 0, limits)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if score_threshold is not None:
        kept &= outputs["scores"] > score_threshold
    boxes = boxes[kept]
    masks = outputs.get("masks")
    return RuntimePrediction(
        image=image,
        boxes=boxes,
        scores=outputs["scores"][kept],
        classes=outputs["classes"][kept],
        masks=None if masks is None else paste_masks(masks[kept], boxes, height, width),
        class_names=metadata.class_names,
        category_ids=metadata.category_ids,
    )


def _listed(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)
