"""What a trial comes to: how often something was done to the project, and how often it did not survive."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Tally:
    """``failures``: a sentence for each time that a promise was broken; ``remark``: in words what stands beside the
    count, ``figures`` its numbers.
    """

    what: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    remark: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def count(self, *, survived: bool, otherwise: str) -> None:
        """One more trial; ``otherwise`` is noted where it was not survived."""
        self.trials += 1
        if not survived:
            self.failures.append(otherwise)


class Child:
    """A copy of this process that does some work and can be killed in the middle of it.

    ``work`` is given a function that tells the parent a number; what it returns is the exit status. The copy begins
    where this process stands, with everything imported, so that a thousand of them cost seconds.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], int]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            status = 1
            try:
                status = work(lambda number: _tell(writing, number))
            except KeyboardInterrupt:
                status = 128 + signal.SIGINT
            finally:
                os._exit(status)
        os.close(writing)
        self._reading = reading
        self.seconds = 0.0  # from the signal to its end

    def signal_after(self, seconds: float, number: signal.Signals) -> tuple[int, list[int]]:
        """Send it a signal after so many seconds and wait for its end: its exit status (128 + the signal's number where
        that ended it) and the numbers that it told.
        """
        time.sleep(seconds)
        sent = time.monotonic()
        try:
            os.kill(self._pid, number)
        finally:
            status, told = self.wait()
        self.seconds = time.monotonic() - sent
        return status, told

    def wait(self) -> tuple[int, list[int]]:
        """Its exit status and the numbers that it told."""
        with os.fdopen(self._reading, "rb") as pipe:
            lines = pipe.read().splitlines(keepends=True)
        _, status = os.waitpid(self._pid, 0)
        ended = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return ended, [int(line) for line in lines if line.endswith(b"\n")]


def _tell(pipe: int, number: int) -> None:
    os.write(pipe, f"{number}\n".encode())
