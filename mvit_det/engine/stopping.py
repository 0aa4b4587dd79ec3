"""Stopping a training on SIGTERM and Ctrl-C, after its step and with a checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# A terminal sends Ctrl-C to a process and to its parent, which passes it on: that is one request.
_SAME_REQUEST = 2.0  # seconds


class TrainingStopped(Exception):
    """A training has stopped early on a signal.

    Attributes:
        signal: number of the signal.
        iteration: number of steps done.
    """

    def __init__(self, number: int, iteration: int, checkpoint: str = "") -> None:
        """Describes the stop.

        Args:
            number: of the signal.
            iteration: number of steps done.
            checkpoint: name of the file to resume from; '' if there is none.
        """
        resume = (
            f"resume from '{checkpoint}' with '--resume'"
            if checkpoint
            else "there is no checkpoint to resume from"
        )
        super().__init__(
            f"stopped by {signal.Signals(number).name} after iteration {iteration}; {resume}"
        )
        self.signal = number
        self.iteration = iteration


class StopRequest:
    """Whether this process was asked to stop: `signal` is the number of the signal, or 0."""

    def __init__(self) -> None:
        self.signal = 0
        self.since = 0.0

    def __bool__(self) -> bool:
        return self.signal != 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first asks to stop, and a second one, later, ends the process."""
        now = time.monotonic()
        if self and now - self.since > _SAME_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self:
            self.signal, self.since = number, now
            # The logger may be in the middle of a line.
            name = signal.Signals(number).name
            os.write(2, f"{name}: stopping after this step; once more stops at once\n".encode())


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns SIGTERM and Ctrl-C into requests within the context.

    Outside of the main thread, where Python handles no signals, there never is a request.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, request.receive) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
