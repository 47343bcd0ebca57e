"""A library's work in a child process: results come back, and a crash, a loop or a lack of memory costs one line."""

import errno
import os
import sys
import textwrap

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.weights import child

MODULE = """
import os
import numpy as np
from alexnet.core.errors import UserError

def good(path, exchange):
    for name, array in exchange.inputs().items():
        exchange.add(name, array * 2)
    exchange.add("reversed", np.arange(6, dtype=">f4").reshape(2, 3).T)
    return {"bytes": len(path.read_bytes()), "given": exchange.arguments}

def crash(path, exchange):
    os.abort()

def exits(path, exchange):
    os._exit(3)

def loop(path, exchange):
    while True:
        pass

def memory(path, exchange):
    np.ones(1 << 27)

def too_much(path, exchange):
    for _ in range(100):
        exchange.add("zeros", np.zeros(1 << 20))

def refuses(path, exchange):
    raise UserError("is not wanted")

def fails(path, exchange):
    raise RuntimeError("a library's message\\nwith lines")

def full(path, exchange):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    exchange.add("zeros", np.zeros(10_000))

def very_full(path, exchange):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

def missing(path, exchange):
    import no_such_module

def half(path, exchange):
    exchange.add("zeros", np.zeros(exchange.limit // 8))
    return exchange.limit

def place(path, exchange):
    offset, dtype, shape, order = exchange.arguments
    exchange.start = 2
    exchange.refer("a", offset, np.dtype(dtype), tuple(shape), order)

def texts(path, exchange):
    exchange.add("names", np.array(["a"], object))
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "work_of_a_child.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "weights \udcff.bin"
    path.write_bytes(b"12345")

    def call(name, **settings):
        return child.call(f"work_of_a_child:{name}", path, **settings)

    call.path = path
    return call


def test_results_come_back(call):
    tensors, value = call("good", arguments=[1, "ä"], tensors={"a": torch.tensor([[1.5, 2]]), "b": torch.tensor(3)})
    assert value == {"bytes": 5, "given": [1, "ä"]}
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "a": [[3, 4]], "b": 6, "reversed": [[0, 3], [1, 4], [2, 5]],
    }  # fmt: skip
    tensors["a"] += 1  # the memory is this process's own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crash", "was stopped by signal 6"),
        ("exits", "ended with status 3"),
        ("memory", "needs more than"),
        ("too_much", "too much for its size"),
        ("refuses", r"weights \\xff.bin is not wanted"),
        ("fails", "is damaged"),
        ("texts", "does not hold numbers"),
        ("full", r"writing temporary files failed \(.*\); free space, or set TMPDIR"),
        ("very_full", r"writing temporary files failed \(.*\); free space, or set TMPDIR"),
        ("missing", "a library cannot be imported .ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_what_goes_wrong_in_a_child_is_one_line(call, name, message):
    with pytest.raises(UserError, match=message) as caught:
        call(name)
    assert "weights \\xff.bin" in caught.value.line
    assert name in ("fails", "crash", "exits") or "damaged" not in str(caught.value)
    assert name != "fails" or caught.value.details == ("RuntimeError: a library's message",)


def test_arrays_may_use_half_of_the_memory(call):
    """They are copied into PyTorch's layouts afterwards."""
    tensors, limit = call("half")
    assert limit == (4 * 5 + (64 << 20)) // 2
    assert tensors["zeros"].numel() == limit // 8


@pytest.mark.parametrize(
    ("dtype", "order", "values"), [("<i2", "C", [[0x3333, 0x3434]]), (">u1", "F", [[0x33, 0x34], [0x33, 0x34]])]
)
def test_arrays_in_the_file_are_read_by_their_place(call, dtype, order, values):
    shape = [len(values), len(values[0])]
    (path := call.path).write_bytes(b"..." + b"\x33\x33\x34\x34")
    tensors, _ = call("place", arguments=[1, dtype, shape, order])
    assert tensors["a"].tolist() == values
    path.write_bytes(b"")
    assert tensors["a"].tolist() == values  # they are read, and not mapped


@pytest.mark.parametrize(
    ("offset", "dtype", "shape"),
    [(2, "<i2", [1]), (-3, "u1", [1]), (0, "<f4", [1 << 40]), (0, "u1", [-1]), (0, "u1", [4]), (1 << 62, "u1", [0, 1])],
)
def test_a_place_outside_the_file_is_refused(call, offset, dtype, shape):
    with pytest.raises(UserError, match=r"the bytes of a are not in it|too much for its size"):
        call("place", arguments=[offset, dtype, shape, "C"])


def test_a_place_with_objects_is_refused(call):
    with pytest.raises(UserError, match="the bytes of a are not in it"):
        call("place", arguments=[0, "O", [0], "C"])


def test_a_module_that_cannot_be_imported(tmp_path):
    (path := tmp_path / "a.bin").touch()
    with pytest.raises(UserError, match="a library that reads or writes it cannot be imported"):
        child.call("no_such_module:f", path)


def test_no_space_for_the_request(tmp_path, monkeypatch):
    def fails(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(child, "write_json", fails)
    with pytest.raises(UserError, match=r"a\.bin cannot be used: writing temporary files failed .No space left"):
        child.call("no_such_module:f", tmp_path / "a.bin")


def test_the_current_folder_is_searched_for_modules(tmp_path, monkeypatch):
    """Python puts "" on its path for a session or ``python -c``; the child begins with ``-P``, which leaves it out."""
    (tmp_path / "only_in_this_folder.py").write_text("def f(path, exchange):\n    return 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *(place for place in sys.path if place)])
    assert child.call("only_in_this_folder:f", tmp_path / "a.bin") == ({}, 5)


def test_an_endless_loop_ends(call):
    with pytest.raises(UserError, match="took too long"):
        call("loop", seconds=1)
