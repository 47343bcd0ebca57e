"""Signals as a wish to stop, looked at between steps: a training then writes a checkpoint before it leaves.

The first SIGINT, SIGTERM or SIGUSR1 (which schedulers send ahead of time) is remembered; a second one does what it does
elsewhere, at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """A context in which the first signal sets ``status`` (128 + its number) instead of ending the process.

    Outside the main thread, where signals cannot be caught, it changes nothing.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.status = 128 + number
        for each, handler in self._before.items():
            signal.signal(each, handler)
