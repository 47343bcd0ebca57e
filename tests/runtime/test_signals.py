"""The first signal is a wish, the second acts; afterwards everything is as it was."""

import signal
import threading

import pytest

from alexnet.runtime.signals import StopSignals


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
def test_the_first_signal_is_remembered(terminating, number, status):
    with StopSignals() as interrupts:
        assert interrupts.status is None
        signal.raise_signal(number)
        assert interrupts.status == status


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
def test_the_second_signal_acts_at_once(terminating, first, second, error):
    with StopSignals():
        signal.raise_signal(first)
        with pytest.raises(error):
            signal.raise_signal(second)


def test_handlers_are_put_back(terminating):
    before = signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) is not terminating
    assert signal.getsignal(signal.SIGTERM) is terminating
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyError), StopSignals():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) is terminating


def test_other_threads_are_left_alone(terminating):
    found = []

    def work():
        with StopSignals() as interrupts:
            found.append((interrupts.status, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, terminating)]
