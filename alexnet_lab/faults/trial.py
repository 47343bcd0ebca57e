"""Trials and their failures, and child processes that can be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class FaultResult:
    """The trials of one kind of fault. ``failures``: a sentence for each trial that failed. ``remark``: a remark for
    the table; ``figures``: its numbers.
    """

    what: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)
    remark: str = ""
    figures: dict[str, float] = field(default_factory=dict)

    def count(self, *, passed: bool, failure: str) -> None:
        """Count a trial; ``failure`` describes it if it did not pass."""
        self.trials += 1
        if not passed:
            self.failures.append(failure)


class Child:
    """A forked copy of this process that does some work and can be killed meanwhile.

    ``work`` receives a function that sends a number to the parent, and returns the exit status. The copy starts with
    all modules imported, so a thousand of them take seconds.
    """

    def __init__(self, work: Callable[[Callable[[int], None]], int]) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(reading)
            status = 1
            try:
                status = work(lambda number: _send(writing, number))
            except KeyboardInterrupt:
                status = 128 + signal.SIGINT
            finally:
                os._exit(status)
        os.close(writing)
        self._reading = reading
        self.seconds = 0.0  # from the signal to the end of the process

    def signal_after(self, seconds: float, number: signal.Signals) -> tuple[int, list[int]]:
        """Send a signal after ``seconds`` and wait for the end: the exit status (128 + the signal's number if a signal
        ended the process) and the numbers that it sent.
        """
        time.sleep(seconds)
        sent = time.monotonic()
        try:
            os.kill(self._pid, number)
        finally:
            status, received = self.wait()
        self.seconds = time.monotonic() - sent
        return status, received

    def wait(self) -> tuple[int, list[int]]:
        """The exit status and the numbers that the process sent."""
        with os.fdopen(self._reading, "rb") as pipe:
            lines = pipe.read().splitlines(keepends=True)
        _, status = os.waitpid(self._pid, 0)
        ended = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return ended, [int(line) for line in lines if line.endswith(b"\n")]


def _send(pipe: int, number: int) -> None:
    os.write(pipe, f"{number}\n".encode())
