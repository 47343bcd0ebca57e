"""Which progress display is used where, and that none of them writes to stdout."""

import sys
import types

import pytest

from alexnet.runtime import progress
from alexnet.runtime.log import NullReporter, stage
from alexnet.runtime.progress import BarReporter, LineReporter, make_reporter


@pytest.fixture
def notebook(monkeypatch):
    """Makes this process look like the kernel of a notebook, or like the ipython command."""

    def make(kernel=True, widgets=True):
        shell = types.SimpleNamespace(kernel=object()) if kernel else types.SimpleNamespace()
        ipython = types.SimpleNamespace(get_ipython=lambda: shell)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: object() if widgets else None)

    return make


@pytest.mark.parametrize("wanted", [None, True])
def test_lines_where_there_is_no_terminal(wanted):
    assert isinstance(make_reporter(wanted), LineReporter)


def test_false_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_reporter(progress=False), NullReporter)


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_reporter(), BarReporter)


def test_a_bar_in_a_notebook_with_widgets(notebook):
    notebook()
    assert isinstance(make_reporter(), BarReporter)


def test_lines_in_a_notebook_without_widgets(notebook):
    notebook(widgets=False)
    assert isinstance(make_reporter(), LineReporter)


def test_the_ipython_command_is_no_notebook(notebook):
    notebook(kernel=False)
    assert isinstance(make_reporter(), LineReporter)


def test_ipython_without_a_shell_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert isinstance(make_reporter(), LineReporter)


@pytest.mark.parametrize("reporter", [NullReporter, LineReporter, BarReporter])
def test_stdout_holds_results_only(reporter, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    shown = reporter()
    shown.log("before")
    with stage(shown, "training", 10):
        shown.advance(4, images_per_second=1234.5, loss=0.5)
        shown.log("inside")
    out, err = capsys.readouterr()
    assert out == ""
    assert [word in err for word in ("before", "inside", "training", "1,23")] == [reporter is not NullReporter] * 4
