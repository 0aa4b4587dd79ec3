"""Objects of a video that keep their ids from frame to frame, by ByteTrack.

The tracker is that of the library `trackers`, where supervision's ByteTrack moved.
"""

from dataclasses import replace

import numpy as np
import torch

from ..errors import ConfigError
from .prediction import Prediction

# Detections from this score on continue the track of an object that was found with a higher score,
# as ByteTrack does where an object is blurred or half hidden.
LOWEST_SCORE = 0.1
_INSTALL = (
    "tracking needs trackers; install it with 'pip install \"mvit_det[track]\"' and then "
    "'pip install --no-deps trackers' (its dependencies include an OpenCV that replaces the "
    "headless one)"
)


class Tracker:
    """Follows the objects of one video.

    An object gets its id in the second frame that shows it, and keeps it while it is out of sight
    for up to a second. Objects of all classes are matched together, so that one whose class changes
    keeps its id.
    """

    def __init__(self, rate: float, score_threshold: float) -> None:
        """Prepares the tracker of a new video.

        Args:
            rate: frames per second.
            score_threshold: from which score on a detection is an object to follow.

        Raises:
            ConfigError: the tracker library is not installed.
        """
        check_installed()
        from trackers import ByteTrackTracker

        self._threshold = score_threshold
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=score_threshold,
            high_conf_det_threshold=score_threshold,
        )

    def update(self, prediction: Prediction) -> Prediction:
        """Takes the predictions for the next frame, and adds `track_ids` to its instances.

        Args:
            prediction: from `LOWEST_SCORE` on.

        Returns:
            The instances with at least the score threshold, and those with less that continue a
            track.
        """
        from supervision import Detections

        found = prediction.instances
        tracked = self._tracker.update(
            Detections(
                xyxy=found.pred_boxes.tensor.numpy().astype(np.float32),
                confidence=found.scores.numpy(),
                data={"index": np.arange(len(found))},
            )
        )
        track_ids = torch.full((len(found),), -1)
        if len(tracked):  # in another order
            track_ids[tracked.data["index"]] = torch.as_tensor(tracked.tracker_id)
        found = type(found)(found.image_size, **found.get_fields(), track_ids=track_ids)
        keep = (found.scores >= self._threshold) | (track_ids >= 0)
        return replace(prediction, instances=found[keep])


def check_installed() -> None:
    """Raises a ConfigError if the tracker library is not installed."""
    try:
        import trackers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(_INSTALL) from error
