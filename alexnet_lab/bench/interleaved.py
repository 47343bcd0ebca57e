"""Several ways of doing the same work, timed by turns, each in a process of its own.

Machines drift by a factor of two or three over minutes, so only neighbours in time are compared: every round gives each
contestant a turn, and a ratio is the median over rounds of the ratios within a round. A process of its own, because
settings of one (how memory is freed, threads, compiled code) would speed up the other, and because its peak of memory
is then its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from alexnet.core.errors import UserError, one_line
from alexnet.runtime.device import DeviceConfig

Work = Iterator[int]  # does a piece of work each time the next is asked for, and yields how many images it was
ROUNDS, SECONDS = 5, 4.0
WARM_UP = 0.5  # turns that do not count
KIBI = 1024


@dataclass(frozen=True)
class Candidate:
    """``prepare(*arguments)`` gives the machine and the work; it is called in the contestant's own process, so both it
    and the arguments must be importable and picklable.
    """

    prepare: Callable[..., tuple[DeviceConfig, Work]]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Timed:
    """What came of one contestant. ``rates``: images per second, round by round; ``first_seconds``: its first piece of
    work, with whatever is compiled or warmed up in it; ``peak_memory``: the most bytes that its process held, on a GPU
    the most that its tensors took there.
    """

    rates: tuple[float, ...]
    first_seconds: float
    peak_memory: int

    @property
    def rate(self) -> float:
        """The median, images per second."""
        return statistics.median(self.rates)


def ratios(ours: Timed, other: Timed) -> list[float]:
    """How many times as fast ours is, round by round."""
    return [mine / theirs for mine, theirs in zip(ours.rates, other.rates, strict=True)]


def time_interleaved(
    candidates: Mapping[str, Candidate],
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    watch: Callable[[int], None] = lambda turns: None,
) -> dict[str, Timed]:
    """``rounds`` turns of at least ``seconds`` for each contestant; ``watch`` is told how many turns are over.

    Raises ``UserError`` for a contestant that could not do its work, with its last words.
    """
    processes: dict[str, _Process] = {}
    try:
        for name, candidate in candidates.items():
            processes[name] = _Process(name, candidate)
        first = {name: process.ask("first") for name, process in processes.items()}
        for process in processes.values():
            process.ask("turn", seconds * WARM_UP)
        rates: dict[str, list[float]] = {name: [] for name in processes}
        for turn, name in enumerate(list(processes) * rounds, 1):
            rates[name].append(processes[name].ask("turn", seconds))
            watch(turn)
        return {
            name: Timed(tuple(rates[name]), first[name], int(process.ask("peak")))
            for name, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.end()


class _Process:
    """A contestant at the other end of a pipe: idle but when it is asked."""

    def __init__(self, name: str, candidate: Candidate) -> None:
        self._name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, candidate))
        self._process.start()
        theirs.close()

    def ask(self, what: str, seconds: float = 0.0) -> float:
        """Its answer to ``"first"``, ``"turn"`` or ``"peak"``. Raises ``UserError`` where there is none."""
        with contextlib.suppress(OSError):  # one that has ended cannot be asked, but may have left its last words
            self._pipe.send((what, seconds))
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):  # it ended without a word
            self._process.join()
            answer = f"its process ended with status {self._process.exitcode}"
        if isinstance(answer, str):
            raise UserError(f"{self._name} could not be timed: {answer}")
        return float(answer)

    def end(self) -> None:
        """Have it leave, by force if it will not."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _answer(pipe: Connection, candidate: Candidate) -> None:
    """A contestant's process: questions in, figures out, until the pipe is closed."""
    try:
        device_config, work = candidate.prepare(*candidate.arguments)
        while True:
            what, seconds = pipe.recv()
            match what:
                case "first":
                    pipe.send(_seconds(work, device_config))
                case "turn":
                    pipe.send(rate(work, seconds, device_config))
                case "peak":
                    pipe.send(_peak_memory(device_config))
    except (EOFError, KeyboardInterrupt):  # whoever asks has left, or is told by the same Ctrl-C
        return
    except Exception as error:
        pipe.send(one_line(error))


def rate(work: Work, seconds: float, device_config: DeviceConfig) -> float:
    """Images per second over the next pieces of work, for at least so many seconds and at least one piece."""
    images = 0
    device_config.synchronize()
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or not images:
        images += next(work)
        device_config.synchronize()
    return images / passed


def _seconds(work: Work, device_config: DeviceConfig) -> float:
    device_config.synchronize()
    start = time.perf_counter()
    next(work)
    device_config.synchronize()
    return time.perf_counter() - start


def _peak_memory(device_config: DeviceConfig) -> int:
    if device_config.device.type == "cuda":
        return torch.cuda.max_memory_allocated(device_config.device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage(2) would count what the parent held when it started this process
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KIBI
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KIBI
