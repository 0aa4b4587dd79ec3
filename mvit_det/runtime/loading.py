"""The predictor that suits the task of exported files."""

from collections.abc import Sequence

from .classification import RuntimeClassifier
from .predictor import RuntimePredictor
from .sessions import Session
from .video_classification import RuntimeVideoClassifier

AnyPredictor = RuntimePredictor | RuntimeClassifier | RuntimeVideoClassifier


def make_predictor(
    sessions: Sequence[Session], score_threshold: float | None = None
) -> AnyPredictor:
    """Makes a predictor of one loaded file, or of several of a detector.

    Args:
        sessions: at least one.
        score_threshold: of a detector, as for `RuntimePredictor`.

    Raises:
        ConfigError, ExportError: as the predictors.
    """
    if len(sessions) == 1:
        match sessions[0].metadata.task:
            case "classification":
                return RuntimeClassifier(sessions[0])
            case "video_classification":
                return RuntimeVideoClassifier(sessions[0])
    return RuntimePredictor(sessions, score_threshold)
