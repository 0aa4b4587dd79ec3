"""Stopping a training on request, in place of dying on it."""

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
    """A training has ended early because it was asked to, and its state is saved.

    Attributes:
        signal: number of the signal that asked for it.
        iteration: number of steps done.
    """

    def __init__(self, number: int, iteration: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after iteration {iteration}; go on with "
            "'--resume'"
        )
        self.signal = number
        self.iteration = iteration


class StopRequest:
    """Whether this process was asked to stop, and how: `signal` is 0 as long as it was not."""

    def __init__(self) -> None:
        self.signal = 0
        self.since = 0.0

    def __bool__(self) -> bool:
        return self.signal != 0

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self and now - self.since > _SAME_REQUEST:
            # Whoever asks again does not want to wait for the end of the step.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self:
            self.signal, self.since = number, now
            # Not by the logger: it may be in the middle of a line.
            name = signal.Signals(number).name
            os.write(2, f"{name}: stopping after this step; once more stops at once\n".encode())


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Takes SIGTERM and Ctrl-C for requests for a while, instead of dying on them.

    Outside of the main thread, where Python handles no signals, there never is a request.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.signal(number, request._receive)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
