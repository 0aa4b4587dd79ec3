"""Writing metrics, whatever the disk has against it."""

import logging
from collections.abc import Callable

from detectron2.utils.events import EventWriter

logger = logging.getLogger(__name__)


class TolerantWriter(EventWriter):
    """Passes metrics on to a writer that may fail on a full disk, which ends no training.

    It is tried again each time, so that metrics go on once there is room.
    """

    def __init__(self, writer: EventWriter) -> None:
        """Wraps a writer."""
        self.writer = writer
        self.is_failing = False

    def write(self) -> None:
        """Writes, if the disk lets it."""
        self._attempt(self.writer.write)

    def close(self) -> None:
        """Ends the files."""
        self._attempt(self.writer.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            if not self.is_failing:
                logger.error(
                    "The training goes on without metrics of %s (%s); make room in "
                    "train.output_dir",
                    type(self.writer).__name__,
                    error.strerror or error,
                )
            self.is_failing = True
        else:
            self.is_failing = False
