"""Stop signals: a training checks for them between steps, so that it can write a checkpoint before it ends.

The first SIGINT, SIGTERM or SIGUSR1 (which schedulers send some time before they end a job) only sets a status. A
second signal has its usual effect: at once, or, with ``repeated``, after that many seconds.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1") if name in signal.Signals.__members__)


class StopSignals:
    """A context in which the first signal sets ``status`` (128 + its number) instead of ending the process.

    The earlier handlers are restored at the first signal (with ``repeated``, at the first that counts as a second one)
    and at the end of the context, also after an exception. A
    handler that was not installed from Python cannot be restored, so its signal is not caught. Outside the main thread,
    where Python cannot install handlers, the context changes nothing and ``status`` stays None. Signals within
    ``repeated`` seconds after the first count as the same: one Ctrl-C can reach a process of several twice.
    """

    def __init__(self, repeated: float = 0.0) -> None:
        self.status: int | None = None
        self._repeated, self._first = repeated, 0.0
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if (handler := signal.getsignal(number)) is not None:
                    self._handlers[number] = handler
                    signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.status is None:
            self.status, self._first = 128 + number, time.monotonic()
            if not self._repeated:
                self._restore()
        elif time.monotonic() - self._first > self._repeated:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
