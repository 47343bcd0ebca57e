"""Typed, frozen values from JSON and from words, and back: what recipes and saved models are read by.

A field's type hint decides: nested dataclasses, ``Literal`` choices, optional values, tuples of numbers and tuples of
dataclasses. What is of another type, unknown or missing is a ``UserError`` that names the field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from alexnet.core.errors import UserError, unknown

Spec = typing.TypeVar("Spec")


def to_json(value: object) -> Any:
    """A spec as plain JSON values."""
    return dataclasses.asdict(value)  # type: ignore[call-overload]


def from_json(kind: type[Spec], value: Mapping[str, Any], where: str = "") -> Spec:
    """The spec that :func:`to_json` wrote; fields that it lacks have their defaults.

    Raises ``UserError`` for a field that is unknown, of another type, or missing without a default.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where.rstrip('.') or kind.__name__} = {value!r} is not a set of fields")
    hints = typing.get_type_hints(kind)
    fields = {}
    for name, item in value.items():
        path = f"{where}{name}"
        if name not in hints:
            raise unknown("field", path, [f"{where}{known}" for known in hints])
        hint = hints[name]
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        fields[name] = from_json(hint, item, f"{path}.") if nested else _coerce(hint, item, path)
    try:
        return kind(**fields)
    except TypeError as error:  # a field without a default is missing
        raise UserError(f"{where}{kind.__name__} is incomplete: {error}") from error


def spell(value: object) -> str:
    """A value as :func:`parse_word` reads it."""
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return json.dumps([to_json(item) for item in value])
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """A JSON value as the field's type: lists become tuples and whole numbers may stand for floats.

    Types are compared, not only values: to Python True is 1 and 1.0 is 1. What is not finite is no number here.
    """
    for kind in _alternatives(hint):
        if kind is type(None):
            if value is None:
                return None
        elif typing.get_origin(kind) is Literal:
            if any(type(value) is type(item) and value == item for item in typing.get_args(kind)):
                return value
        elif _is_tuple_of_specs(kind):
            if isinstance(value, list | tuple):
                inner = typing.get_args(kind)[0]
                return tuple(from_json(inner, item, f"{path}[{place}].") for place, item in enumerate(value))
        elif typing.get_origin(kind) is tuple:
            if isinstance(value, list | tuple) and all(map(_is_number, value)):
                return tuple(map(float, value))
        elif kind is float:
            if _is_number(value):
                return float(value)
        elif type(value) is kind:
            return value
    raise UserError(f"{path} = {value!r} is not {_describe(hint)}")


def _is_tuple_of_specs(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple and dataclasses.is_dataclass(typing.get_args(kind)[0])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max


def parse_word(hint: Any, text: str, path: str) -> Any:
    """A command-line word as the field's type."""
    words: dict[str, object] = {"none": None, "true": True, "false": False}
    candidates: list[object] = [words[text.lower()]] if text.lower() in words else []
    for number in (int, float):
        try:
            candidates.append(number(text))
        except ValueError:
            continue
    if any(map(_is_tuple_of_specs, _alternatives(hint))):
        with contextlib.suppress(ValueError):
            candidates.append(json.loads(text or "[]"))
    elif any(typing.get_origin(kind) is tuple for kind in _alternatives(hint)):
        with contextlib.suppress(ValueError):
            candidates.append([float(item) for item in text.split(",") if item.strip()])
    for candidate in [*candidates, text]:
        try:
            return _coerce(hint, candidate, path)
        except UserError:
            continue
    raise UserError(f"{path} = {text!r} is not {_describe(hint)}")


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    parts = []
    for kind in _alternatives(hint):
        if typing.get_origin(kind) is Literal:
            parts.append("one of " + ", ".join(str(item) for item in typing.get_args(kind)))
        elif _is_tuple_of_specs(kind):
            names_within = ", ".join(item.name for item in dataclasses.fields(typing.get_args(kind)[0]))
            parts.append(f"a JSON list of objects with {names_within}")
        elif typing.get_origin(kind) is tuple:
            parts.append("numbers with commas between them")
        else:
            parts.append(names[kind])
    return " or ".join(parts)
