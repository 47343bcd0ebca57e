"""Pickles of arrays: what Python and NumPy write is read, and everything else is refused without running it."""

import io
import os
import pickle
import random
import struct

import numpy as np
import pytest

from alexnet.weights import closed_pickle
from alexnet.weights.closed_pickle import MAX_OPCODES, PickleError

W, B = np.arange(24, dtype="f4").reshape(2, 3, 4), np.array([1.5, -2], ">f8")


def load_arrays(data):
    return closed_pickle.load_arrays(io.BytesIO(data), len(data))


def dumped(value, protocol=2):
    return pickle.dumps(value, protocol=protocol)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("weight", [W, W.T, np.asfortranarray(W), W[:, :0]], ids=["C", "T", "F", "empty"])
def test_what_numpy_writes_is_read(protocol, weight):
    value = {"conv1": [weight, B], b"fc6": {"weights": weight, "n": np.float32(3)}, 4: (None, True, 1 << 40, -7, 0.5)}
    if protocol == 2:
        value.pop(b"fc6")  # Python 3 writes bytes keys of protocol 2 as a call
        value["conv1"][0] = weight = weight if weight.size else W  # and no bytes as another
    found = load_arrays(dumped(value, protocol))
    np.testing.assert_array_equal(found["conv1"][0], weight)
    np.testing.assert_array_equal(found["conv1"][1], B)
    assert found["conv1"][1].dtype == B.dtype
    assert found[4] == [None, True, 1 << 40, -7, 0.5]


def python_2(arrays):
    """What Python 2's ``numpy.save`` writes of a dictionary: byte strings, protocol 2, names of old NumPy."""
    out = io.BytesIO()
    short = lambda text: b"U" + bytes([len(text)]) + text  # noqa: E731
    out.write(b"\x80\x02}q\x00(")
    for name, array in arrays.items():
        out.write(short(name.encode()) + b"]q\x01")
        out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01(")
        out.write(b"".join(b"\x8a\x08" + struct.pack("<q", side) for side in array.shape) + b"t")
        out.write(b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
        out.write(b"T" + struct.pack("<i", array.nbytes) + array.tobytes() + b"tba")
    out.write(b"u.")
    return out.getvalue()


def test_what_python_2_writes_is_read():
    found = load_arrays(python_2({"conv1": W, "fc6": W * 2}))
    np.testing.assert_array_equal(found["conv1"][0], W)
    np.testing.assert_array_equal(found["fc6"][0], W * 2)
    assert pickle.loads(python_2({"conv1": W}), encoding="latin1")["conv1"][0].shape == W.shape  # a pickle it is


class Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/was-run",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Runs(), "names posix.system, which is not among the"),
        ({"a": np.array(["text"])}, "not of numbers"),
        ({"a": np.array(["a", object()], object)}, "names builtins.object|names copy_reg|names __builtin__"),
        ({"a": np.array(1 + 2j)}, "not of numbers"),
        ({"a": {1, 2}}, "names __builtin__.set|names builtins.set"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(PickleError, match=message):
        load_arrays(dumped(value))


def array_of(shape, data, dtype=b"f4"):
    """A protocol 2 pickle of one array that states ``shape``."""
    sides = b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", side) for side in shape) + b"t"
    kind = b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"K\x00K\x01\x87R"
    body = b"B" + struct.pack("<I", len(data)) + data
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
        + sides
        + kind
        + b"\x89"
        + body
        + b"tb."
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (array_of((1 << 40,), b"1234"), "has another number of bytes"),
        (array_of((1 << 31, 1 << 33), b""), "has another number of bytes"),
        (array_of((-1,), b"1234"), "has no shape"),
        (array_of((1,) * 20, b"1234"), "has no shape"),
        (array_of((1,), b"1234", b"O8"), "another number of them"),
        *((array_of((1,), b"1234", name), "not of numbers") for name in (b"b2", b"b4", b"b8", b"f1", b"i3", b"c8")),
        (b"\x80\x02B\xff\xff\xff\xffabc.", "is not complete"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "is not complete"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "is damaged"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "a value is missing"),
        (b"\x80\x02Nr\xff\xff\xff\x7f" + b"h\x01.", "refers to a value that is not there"),
        (b"\x80\x02" + b"]" * (MAX_OPCODES + 5), "more than 100,000 opcodes"),
        (b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".", "more than 100,000 opcodes|nested too deeply"),
        (b"\x80\x02" + b"]q\x00h\x00a.", "refers to itself"),  # a list in itself
        (b"\x80\x02" + b"N" + b"h\x00\x86q\x00" * 40 + b".", "is not there"),
        (b"\x80\x02Nq\x00" + b"h\x00\x86q\x00h\x00" * 60 + b"\x86.", "nested too deeply"),  # pairs of pairs of pairs
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "very large number"),
        (b"\x80\x02c" + b"a" * 2000 + b"\n", "very long name"),
        (b"\x80\x02}(K\x01K\x02K\x03u.", "without one"),
        (b"\x80\x02\x81.", "opcode 0x81"),  # NEWOBJ
        (b"\x80\x02P1\n.", "opcode 0x50"),  # a persistent id
        (b"", "is not complete"),
    ],
)
def test_what_lies_is_refused(data, message):
    with pytest.raises(PickleError, match=message):
        load_arrays(data)


def test_a_text_is_not_copied_again_and_again():
    text = b"X" + struct.pack("<I", 50_000) + b"a" * 50_000
    call = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    data = b"\x80\x02" + text + b"q\x00" + call * 3_000 + b"."
    with pytest.raises(PickleError, match="the same bytes many times"):
        load_arrays(data)


def test_changed_pickles_are_refused_or_read():
    draws, read = random.Random(0), 0
    for protocol in (2, 3, 4, 5):
        whole = dumped({"conv1": [W, B], "fc6": {"weights": W, "biases": B}}, protocol)
        for _ in range(500):
            data = bytearray(whole)
            for _ in range(draws.choice((1, 1, 3, 10))):
                data[draws.randrange(len(data))] = draws.randrange(256)
            if draws.random() < 0.2:
                del data[draws.randrange(len(data)) :]
            try:
                load_arrays(data)
                read += 1
            except PickleError:
                pass
    assert read > 100
