"""The wire format of protocol buffers, judged by Google's library: it writes what we read and reads what we write."""

import io
import random

import numpy as np
import onnx
import pytest
from google.protobuf import descriptor_pb2

from alexnet.weights.protobuf import (
    as_bytes,
    as_float,
    as_int,
    field,
    fields,
    file_fields,
    message,
    packed_fields,
    packed_varints,
    signed,
    text,
    varint,
    varints,
)

EDGES = [0, 1, 127, 128, 300, 2**31 - 1, -1, -(2**31), 2**63 - 1, -(2**63)]


def tensor_message(**given):
    tensor = onnx.TensorProto(name="wörter", **given)
    return tensor, memoryview(tensor.SerializeToString())


def test_reads_what_the_library_writes():
    tensor, view = tensor_message(dims=EDGES, data_type=1, raw_data=b"\x00\xff", double_data=[1.5, -2.0])
    found = {number: (wire_type, value) for number, wire_type, value in fields(view)}
    names = {f.name: f.number for f in tensor.DESCRIPTOR.fields}
    dims = [signed(as_int(value)) for number, _, value in fields(view) if number == names["dims"]]
    assert dims == EDGES
    assert text(found[names["name"]][1]) == "wörter"
    assert bytes(as_bytes(found[names["raw_data"]][1])) == b"\x00\xff"
    assert np.frombuffer(as_bytes(found[names["double_data"]][1]), "<f8").tolist() == [1.5, -2.0]
    attribute = onnx.helper.make_attribute("alpha", 1e-4).SerializeToString()
    assert 1e-4 in [as_float(value) for number, wire_type, value in fields(memoryview(attribute)) if wire_type == 5]


def test_the_library_reads_what_we_write():
    encoded = message(
        [
            field(1, packed_varints(EDGES)),
            field(2, 1),
            field(4, np.arange(3, dtype="<f4").tobytes()),
            field(8, "wörter"),
            field(10, memoryview(np.float64([7.0])).cast("B")),
        ]
    )
    tensor = onnx.TensorProto.FromString(b"".join(encoded))
    assert list(tensor.dims) == EDGES
    assert (tensor.name, tensor.data_type) == ("wörter", 1)
    assert list(tensor.float_data) == [0, 1, 2]
    assert list(tensor.double_data) == [7]
    nested = onnx.AttributeProto.FromString(b"".join(message([field(1, "a"), field(5, encoded), field(2, 0.25)])))
    assert nested.t == tensor
    assert nested.f == 0.25


@pytest.mark.parametrize("number", [*EDGES, 2**64 - 1])
def test_integers_there_and_back(number):
    encoded = memoryview(varint(number) * 3)
    assert varints(encoded) == [number % 2**64] * 3


def test_a_list_is_the_same_packed_or_not():
    """``Location.path`` is packed, ``AttributeProto.floats`` (proto2) is not: one field for each number."""
    values = np.random.default_rng(0).standard_normal(200_003).astype(np.float32)
    attribute = onnx.AttributeProto(name="n", floats=values, i=3, f=1.0)
    view = memoryview(attribute.SerializeToString())
    with pytest.raises(ValueError, match="more than 100,000 fields"):
        list(fields(view))
    found = [(number, wire_type, value) for number, wire_type, value in packed_fields(view)]
    assert [number for number, _, _ in found] == [1, 2, 3, 7]
    assert np.array_equal(np.frombuffer(found[-1][2], "<f4"), values)
    location = descriptor_pb2.SourceCodeInfo.Location(path=[1, 300, 7])
    assert varints(next(value for _, _, value in fields(memoryview(location.SerializeToString())))) == [1, 300, 7]


def test_a_file_gives_the_same_fields():
    _, view = tensor_message(dims=EDGES, data_type=1, raw_data=bytes(100_000), double_data=[1.5])
    file = io.BytesIO(view)
    for ours, theirs in zip(file_fields(file, len(view)), fields(view), strict=True):
        assert ours == theirs


def test_the_beginning_of_a_message_gives_its_first_fields():
    _, view = tensor_message(data_type=1, raw_data=bytes(1000))
    whole, head = list(fields(view)), list(fields(view[:100], is_head=True))
    assert [number for number, _, _ in head] == [number for number, _, _ in whole]
    assert len(head[-1][2]) < 1000
    with pytest.raises(ValueError, match="only"):
        list(fields(view[:100]))


BROKEN = {
    "an integer without an end": b"\x08\xff",
    "an integer of 11 bytes": b"\x08" + b"\xff" * 10 + b"\x01",
    "an integer of 65 bits": b"\x08" + b"\xff" * 9 + b"\x02",
    "the number 0": b"\x00\x01",
    "a group": b"\x0b\x0c",
    "an unknown wire type": b"\x0e\x00",
    "a length beyond the end": b"\x0a\x05abcd",
    "a length of 2^63": b"\x0a" + b"\xff" * 8 + b"\x7f" + b"abc",
    "four bytes that are three": b"\x0d\x00\x00\x00",
    "only a key": b"\x0a",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_malformed_input_is_a_value_error(data):
    for read in (fields, packed_fields, lambda view: file_fields(io.BytesIO(view), len(view))):
        with pytest.raises(ValueError, match=r"cut off|bytes|bits|no field"):
            list(read(memoryview(data)))


def test_values_of_the_wrong_type_are_value_errors():
    for function, value in ((as_bytes, 1), (text, 1), (as_int, memoryview(b"")), (as_float, memoryview(b"123"))):
        with pytest.raises(ValueError, match=r"where|has 3 bytes"):
            function(value)
    with pytest.raises(ValueError, match="utf-8"):
        text(memoryview(b"\xff"))


def test_changed_bytes_raise_nothing_else_and_all_readers_agree():
    _, view = tensor_message(dims=EDGES, data_type=1, raw_data=b"abcdefgh", float_data=[1.5, 2, 3], int64_data=EDGES)
    original, dice = bytes(view), random.Random(0)
    refused = 0
    for _ in range(500):
        data = bytearray(original)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        results = []
        for read in (fields, lambda view: file_fields(io.BytesIO(view), len(view))):
            try:
                results.append(list(read(memoryview(data))))
            except ValueError:
                results.append(None)
        assert results[0] == results[1]
        refused += results[0] is None
    assert 50 < refused < 450
