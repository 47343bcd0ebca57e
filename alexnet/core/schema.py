"""Typed, frozen values: read from JSON and from command-line words by pydantic, with errors of one line.

:func:`spec` makes a class a strict, frozen pydantic dataclass: nothing is converted silently, unknown fields are
refused, and numbers must be finite. An error of pydantic becomes one ``UserError`` that names the field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from alexnet.core.errors import UserError, unknown

Spec = TypeVar("Spec")
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(frozen_default=True)
def spec(where: str = "") -> Callable[[type[Spec]], type[Spec]]:
    """A class decorator: a strict, frozen dataclass whose constructor raises ``UserError``.

    ``where``: the prefix of field names in errors, e.g. ``"optim."``.
    """

    def decorate(cls: type[Spec]) -> type[Spec]:
        made = pydantic_dataclass(frozen=True, config=STRICT)(cls)
        validate: Callable[..., None] = made.__init__

        @functools.wraps(validate)
        def init(self: Any, *values: Any, **fields: Any) -> None:
            try:
                validate(self, *values, **fields)
            except ValidationError as error:
                raise _one_line(error, made, where) from error

        made.__init__ = init  # type: ignore[method-assign]
        return typing.cast("type[Spec]", made)

    return decorate


def to_json(value: object) -> Any:
    """A spec as plain JSON values."""
    return dataclasses.asdict(value)  # type: ignore[call-overload]


def from_json(kind: type[Spec], value: object) -> Spec:
    """The spec that :func:`to_json` wrote; missing fields get their defaults.

    Raises ``UserError`` for a field that is unknown, of another type, or missing without a default.
    """
    try:
        made: Spec = _adapter(typing.cast("Any", kind)).validate_json(json.dumps(value))
    except ValidationError as error:
        raise _one_line(error, kind, "") from error
    return made


def spell(value: object) -> str:
    """A value as text that :func:`parse_word` reads."""
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return json.dumps([to_json(item) for item in value])
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse_word(hint: Any, text: str, path: str) -> Any:
    """A command-line word as a value of the field's type. Raises ``UserError``, which describes the allowed values.

    ``none`` means None, unless it is one of the field's choices.
    """
    words: dict[str, object] = {"none": None, "true": True, "false": False}
    candidates: list[object] = [words[text.lower()]] if text.lower() in words else []
    if text in choices(hint):
        candidates.insert(0, text)
    for number in (int, float):
        with contextlib.suppress(ValueError):
            candidates.append(number(text))
    if _holds_specs(hint):
        with contextlib.suppress(ValueError, RecursionError):
            candidates.append(json.loads(text or "[]"))
    elif any(typing.get_origin(kind) is tuple for kind in _alternatives(hint)):
        with contextlib.suppress(ValueError):
            candidates.append([float(item) for item in text.split(",") if item.strip()])
    for candidate in [*candidates, text]:
        with contextlib.suppress(ValidationError, ValueError):
            return _adapter(hint).validate_json(json.dumps(candidate))
    raise UserError(f"{path} = {text!r} is not {describe(hint)}")


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    config = None if isinstance(hint, type) and dataclasses.is_dataclass(hint) else STRICT
    return TypeAdapter(hint, config=config)


def _one_line(error: ValidationError, kind: Any, where: str) -> UserError:
    """The first of pydantic's errors as one line: the field, its value and the allowed values."""
    found = error.errors(include_url=False)[0]
    location, value = found["loc"], found["input"]
    path = where + _path(location)
    match found["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            inside = _hint_at(kind, location[:-1])
            known = [where + _path((*location[:-1], name)) for name in _field_names(inside)]
            return unknown("field", path, known)
        case "missing":
            *outer, name = location
            inside = _hint_at(kind, outer)
            return UserError(f"{where}{_path(outer)}{_name_of(inside)} is incomplete: it lacks {name!r}")
        case "value_error":
            return UserError(str(found["ctx"]["error"])) if "error" in found.get("ctx", {}) else UserError(found["msg"])
    hint = _hint_at(kind, location)
    if _is_spec(hint) and not isinstance(value, Mapping):
        return UserError(f"{path or _name_of(hint)} = {_short_repr(value)} is not a set of fields")
    return UserError(f"{path} = {_short_repr(value)} is not {describe(hint)}")


def _short_repr(value: object) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)


def _path(location: typing.Iterable[int | str]) -> str:
    """``("optim", "rules", 0, "lr")`` as ``optim.rules[0].lr``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _hint_at(kind: Any, location: typing.Sequence[int | str]) -> Any:
    """The type hint of the field at a location inside a spec, or of the innermost enclosing field that has one."""
    hint = kind
    for part in location:
        inner = next((each for each in _alternatives(hint) if _is_spec(each) or typing.get_origin(each) is tuple), None)
        if inner is None:
            return hint
        if _is_spec(inner):
            hints = typing.get_type_hints(inner, include_extras=True)
            if part not in hints:
                return inner
            hint = hints[str(part)]
        else:
            items = [each for each in typing.get_args(inner) if each is not Ellipsis]
            if not isinstance(part, int) or not any(map(_is_spec, items)):
                return hint  # one number of several: the description of the whole field covers it
            hint = items[0]
    return hint


def _is_spec(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _field_names(hint: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(hint)] if _is_spec(hint) else []


def _name_of(hint: Any) -> str:
    return getattr(hint, "__name__", "the value")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, without ``Annotated``; a hint that is no union is its only member."""
    hint = _bare(hint)
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return tuple(_bare(each) for each in typing.get_args(hint)) if union else (hint,)


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _holds_specs(hint: Any) -> bool:
    return any(
        typing.get_origin(kind) is tuple and any(map(_is_spec, typing.get_args(kind))) for kind in _alternatives(hint)
    )


def choices(hint: Any) -> tuple[Any, ...]:
    """The allowed values of a field with choices; empty for any other field."""
    return tuple(
        choice for kind in _alternatives(hint) if typing.get_origin(kind) is Literal for choice in typing.get_args(kind)
    )


def describe(hint: Any) -> str:
    """The allowed values of a field in words: ``a number of at least 0``, ``one of relu, tanh or none``."""
    annotated = next((each for each in _annotations(hint) if isinstance(each, str)), None)
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    parts = []
    for kind in _alternatives(hint):
        if typing.get_origin(kind) is Literal:
            parts.append("one of " + ", ".join(str(item) for item in typing.get_args(kind)))
        elif _holds_specs(kind):
            names_within = ", ".join(_field_names(typing.get_args(kind)[0]))
            parts.append(f"a JSON list of objects with {names_within}")
        elif typing.get_origin(kind) is tuple:
            parts.append(annotated or "numbers with commas between them")
        else:
            parts.append(names.get(kind, _name_of(kind)) + _bounds(hint))
    return " or ".join(dict.fromkeys(parts).keys())


def _annotations(hint: Any) -> tuple[Any, ...]:
    """The metadata of ``Annotated`` in a hint and in the members of its union."""
    own = hint.__metadata__ if typing.get_origin(hint) is Annotated else ()
    inner = typing.get_args(_bare(hint)) if typing.get_origin(_bare(hint)) in (types.UnionType, typing.Union) else ()
    return (*own, *(each for item in inner if typing.get_origin(item) is Annotated for each in item.__metadata__))


def _bounds(hint: Any) -> str:
    """The bounds in words: `` of at least 0``, `` above 0``, `` of at least 0 and below 1``; empty without bounds."""
    lowest = highest = ""
    for each in _annotations(hint):
        match each:
            case Ge(ge=bound):
                lowest = f"at least {bound}"
            case Gt(gt=bound):
                lowest = f"above {bound}"
            case Le(le=bound):
                highest = f"at most {bound}"
            case Lt(lt=bound):
                highest = f"below {bound}"
    text = " and ".join(filter(None, (lowest, highest)))
    return f" {text}" if text.startswith("above") else f" of {text}" if text else ""
