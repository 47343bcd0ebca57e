"""The first signal sets a status, the second has its usual effect; handlers are restored afterwards."""

import signal
import threading

import pytest

from alexnet.runtime.signals import SIGNALS, StopSignals


class TerminatedError(Exception):
    pass


@pytest.fixture
def terminating():
    """A handler for SIGTERM that a test survives."""

    def handler(number, frame):
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_the_first_signal_sets_a_status(terminating, number, status):
    with StopSignals() as interrupts:
        assert interrupts.status is None
        signal.raise_signal(number)
        assert interrupts.status == status


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
def test_the_second_signal_has_its_usual_effect(terminating, first, second, error):
    with StopSignals():
        signal.raise_signal(first)
        with pytest.raises(error):
            signal.raise_signal(second)


def test_handlers_are_restored(terminating):
    before = signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not terminating
    assert signal.getsignal(signal.SIGTERM) is terminating
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyError), StopSignals():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is terminating


def test_other_threads_change_nothing(terminating):
    found = []

    def work():
        with StopSignals() as interrupts:
            found.append((interrupts.status, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, terminating)]


def test_all_handlers_are_those_from_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with StopSignals():
        signal.raise_signal(signal.SIGTERM)  # the first signal restores them at once
        assert [signal.getsignal(number) for number in SIGNALS] == before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_contexts_may_be_nested(terminating):
    with StopSignals() as outer:
        with StopSignals() as inner:
            signal.raise_signal(signal.SIGTERM)
        assert (inner.status, outer.status) == (143, None)
        signal.raise_signal(signal.SIGTERM)
        assert outer.status == 143
    assert signal.getsignal(signal.SIGTERM) is terminating


def test_a_handler_not_from_python_is_left(monkeypatch):
    """Such a handler cannot be restored: ``signal.getsignal`` returns None for it."""
    real = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGUSR1 else real(number))
    before = real(signal.SIGUSR1)
    with StopSignals():
        assert real(signal.SIGUSR1) is before
    assert real(signal.SIGUSR1) is before
