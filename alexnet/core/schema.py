"""Typed, frozen values: built in Python, read from JSON and from command-line words, with errors of one line.

:func:`spec` makes a class a strict, frozen pydantic dataclass: no value is converted silently (only lists become
tuples, as in JSON), and unknown fields and infinite numbers are refused. The first error that pydantic reports becomes
one ``UserError``: the path of the field, its value, what the field takes and, for a misspelled name, the nearest one.
Names that fields had in earlier versions are read too (:class:`Renamed`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic_core import PydanticCustomError

from alexnet.core.errors import UserError, unknown
from alexnet.core.names import nearest

Spec = TypeVar("Spec")
Reader = Callable[[Any, Any, str], Any]  # (type hint, value, path of the field) → the value as that type
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
MISFIT = "literal_error"  # pydantic's type of the error for a value that is no choice of the field

_SHORT = reprlib.Repr()  # a value in an error: long and deep ones are cut
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 8
_SHORT.maxlevel = 4


class Renamed(NamedTuple):
    """A field's name in an earlier version, and how its value becomes today's.

    ``name``: today's name in the same section. ``takes``: the type hint of the earlier value, None for today's.
    ``convert``: earlier value → today's value.
    """

    name: str
    takes: Any = None
    convert: Callable[[Any], Any] = lambda value: value


def _whole(value: object) -> object:
    if type(value) is not int:
        raise PydanticCustomError(MISFIT, "not a whole number")
    return value


WHOLE = BeforeValidator(_whole)
"""For choices among numbers, ``Annotated[Literal[1, 3], WHOLE]``: without it True equals 1 and 3.0 equals 3."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def spec(where: str = "", renamed: Mapping[str, Renamed] | None = None) -> Callable[[type[Spec]], type[Spec]]:
    """A class decorator: a strict, frozen dataclass whose constructor raises ``UserError``.

    ``where``: what the paths of its fields begin with in errors, e.g. ``optim``. ``renamed``: earlier names by path,
    e.g. ``optim.rate``; those of other sections are ignored.
    """

    def decorate(cls: type[Spec]) -> type[Spec]:
        made: Any = pydantic_dataclass(frozen=True, config=STRICT)(cls)
        validate: Callable[..., None] = made.__init__
        names = [item.name for item in dataclasses.fields(made)]

        @functools.wraps(validate)
        def init(self: Any, *values: Any, **fields: Any) -> None:
            if len(values) > len(names):
                raise TypeError(f"{cls.__name__} takes {len(names)} values, not {len(values)}")
            try:
                given = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
                validate(self, **dict(zip(names, values, strict=False)), **given)
            except ValidationError as error:
                raise _one_line(error, made, where) from error

        made.__init__ = init
        made.__where__ = where
        paths = {path.rpartition("."): earlier for path, earlier in (renamed or {}).items()}
        made.__renamed__ = {name: earlier for (section, _, name), earlier in paths.items() if section == where}
        return typing.cast("type[Spec]", made)

    return decorate


NEW = types.MappingProxyType({"new": True})
"""``field(default=…, metadata=NEW)``: a field that JSON holds only if its value is not the default.

So the JSON of values that do not use it, and every hash of that JSON, are those of versions without the field.
"""


def to_json(value: object, *, whole: bool = False) -> Any:
    """A spec as plain JSON values. Bytes of a path that are not UTF-8, which JSON cannot hold, are escaped.

    ``whole``: also with the fields that are :data:`NEW` and have their default. Raises ``TypeError`` for no spec.
    """
    if not dataclasses.is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is no spec")
    return _portable(value, whole)


def _portable(value: Any, whole: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [
            (item.name, getattr(value, item.name))
            for item in dataclasses.fields(value)
            if whole or item.metadata != NEW or getattr(value, item.name) != item.default
        ]
        return {name: _portable(item, whole) for name, item in fields}
    if isinstance(value, dict):
        return {name: _portable(item, whole) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_portable(item, whole) for item in value)
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def from_json(kind: type[Spec], value: object) -> Spec:
    """The spec that :func:`to_json` wrote, in this version or an earlier one; fields that it lacks have their defaults.

    Raises ``UserError`` for a field that is unknown, of another type, or missing without a default.
    """
    read: Spec = validated(kind, value, getattr(kind, "__where__", ""))
    return read


def validated(hint: Any, value: object, path: str) -> Any:
    """A JSON value, which may hold specs, as the type ``hint``. Raises ``UserError`` that names ``path``."""
    try:
        text = json.dumps(_today(hint, value, path), default=to_json)
        return _adapter(hint).validate_json(text)
    except ValidationError as error:
        raise _one_line(error, hint, path) from error
    except UserError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # what JSON cannot hold, or nests too deeply
        raise _misfit(path, value, hint) from error


def spell(value: object) -> str:
    """A value as :func:`parse_word` reads it."""
    if isinstance(value, tuple) and value and _is_spec(type(value[0])):
        return json.dumps([to_json(item) for item in value], allow_nan=False)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse_word(hint: Any, text: str, path: str) -> Any:
    """A command-line word as the field's type. Raises ``UserError`` that says what the field takes.

    ``none`` means None, unless it is one of the field's choices.
    """
    if _item_spec(hint):
        try:
            value = json.loads(text or "[]")
        except (ValueError, RecursionError) as error:
            raise _misfit(path, text, hint) from error
        return validated(hint, value, path)
    words: dict[str, object] = {"none": None, "true": True, "false": False}
    candidates: list[object] = [text] if text in choices(hint) else []
    if text.lower() in words:
        candidates.append(words[text.lower()])
    for number in (int, float):
        with contextlib.suppress(ValueError):
            candidates.append(number(text))
    if any(typing.get_origin(kind) is tuple for kind, _ in _members(hint)):
        with contextlib.suppress(ValueError):
            candidates.append(tuple(float(item) for item in text.split(",") if item.strip()))
        candidates.append(tuple(item.strip() for item in text.split(",") if item.strip()))
    for candidate in [*candidates, text]:
        with contextlib.suppress(ValidationError):
            return _adapter(hint).validate_python(candidate)
    raise _misfit(path, text, hint)


def earlier_value(earlier: Renamed, today: Any, value: Any, path: str, read: Reader) -> Any:
    """The value of a renamed field at ``path``, converted. ``today``: the type hint of today's field.

    ``read``: :func:`validated` or :func:`parse_word`. Raises ``UserError`` with both names of the field.
    """
    try:
        return earlier.convert(read(earlier.takes or today, value, path))
    except UserError as error:
        raise UserError(f"{error.line} (the field is now called {earlier.name})", error.details) from error


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that a field with choices takes; empty for any other field."""
    return tuple(
        item for kind, _ in _members(hint) if typing.get_origin(kind) is Literal for item in typing.get_args(kind)
    )


def describe(hint: Any) -> str:
    """What a field takes, in words: ``a number of at least 0``, ``one of relu, tanh, or none``."""
    parts = []
    for kind, notes in _members(hint):
        inside = typing.get_args(kind)
        if typing.get_origin(kind) is Literal:
            parts.append("one of " + ", ".join(map(str, inside)))
        elif _is_spec(kind):
            parts.append("a set of fields")
        elif inner := _item_spec(kind):
            parts.append(f"a JSON list of objects with {', '.join(field_hints(inner))}")
        elif typing.get_origin(kind) is tuple:
            what = "names" if str in inside else "numbers"
            count = what if Ellipsis in inside else f"{len(inside)} {what}"
            parts.append(f"{count} with commas between them")
        elif kind is not type(None) or "none" not in choices(hint):
            parts.append(TYPE_NAMES.get(kind, str(kind)) + _bounds(notes))
    return ", or ".join(parts)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=None if _is_spec(hint) else STRICT)


def _today(hint: Any, value: Any, path: str) -> Any:
    """The same JSON value with earlier names and their values replaced by today's."""
    if (inner := _item_spec(hint)) and isinstance(value, list | tuple):
        return [_today(inner, item, f"{path}[{place}]") for place, item in enumerate(value)]
    if not (_is_spec(hint) and isinstance(value, Mapping)):
        return value
    hints, fields = field_hints(hint), {}
    for name, item in value.items():
        earlier = hint.__renamed__.get(name)
        today = earlier.name if earlier else str(name)
        here = _path(path, (name,))
        if today in fields:
            raise UserError(f"{_path(path, (today,))} is given twice, once by an earlier name")
        if earlier:
            item = earlier_value(earlier, hints[today], item, here, validated)
        fields[today] = _today(hints.get(today), item, here)
    return fields


def _one_line(error: ValidationError, kind: Any, where: str) -> UserError:
    """The first error that pydantic reports, as one that names the field, its value and what it takes."""
    first = error.errors(include_url=False)[0]
    location, given, context = first["loc"], first["input"], first.get("ctx", {})
    if first["type"] == "missing" and isinstance(location[-1], int):  # a list that is too short
        location = location[:-1]
    path = _path(where, location)
    if first["type"] == "json_invalid":
        return UserError(f"{path or _name(kind)} cannot be read as JSON: {context['error']}")
    if first["type"] == "value_error" and isinstance(context.get("error"), UserError):
        return typing.cast("UserError", context["error"])  # what a __post_init__ raised
    owner, hint = _hint_at(kind, location)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown("field", path, [_path(where, (*location[:-1], name)) for name in field_hints(owner)])
    if first["type"] == "dataclass_exact_type":  # in Python; in JSON such a value is a set of fields
        return UserError(f"{path} = {_SHORT.repr(given)} is not of the type {context['class_name']}")
    if first["type"] == "missing" and location != first["loc"]:
        return _misfit(path, given, hint)
    if first["type"] == "missing":
        return UserError(f"{_path(where, location[:-1]) or _name(owner)} is incomplete: it lacks {location[-1]!r}")
    return _misfit(path, given, hint)


def _misfit(path: str, value: object, hint: Any) -> UserError:
    """The error for a value that the field does not take, with the nearest of its choices."""
    words = [item for item in choices(hint) if isinstance(item, str)]
    near = nearest(value, words, cutoff=0.6) if isinstance(value, str) else []
    meant = f": did you mean {near[0]!r}?" if near else ""
    return UserError(f"{path or _name(hint)} = {_SHORT.repr(value)} is not {describe(hint)}{meant}")


def _path(where: str, location: Iterable[int | str]) -> str:
    """``optim`` and ``("rules", 0, "lr")`` as ``optim.rules[0].lr``."""
    for part in location:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    return where


def _hint_at(kind: Any, location: Sequence[int | str]) -> tuple[Any, Any]:
    """(the spec that holds the last field of a location, the type hint of what is there)."""
    owner = hint = kind
    for part in location:
        if isinstance(part, int):
            (item,) = [typing.get_args(each)[0] for each, _ in _members(hint) if typing.get_origin(each) is tuple]
            hint = item
        else:
            owner, hint = hint, field_hints(hint).get(part)
    return (hint if _is_spec(hint) else owner), hint


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", "the value")


@functools.cache
def field_hints(kind: Any) -> dict[str, Any]:
    """The type hints of a spec's fields, bounds included."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


def _is_spec(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _item_spec(hint: Any) -> Any:
    """The spec whose tuples a field holds; None for any other field."""
    for kind, _ in _members(hint):
        if typing.get_origin(kind) is tuple and _is_spec(typing.get_args(kind)[0]):
            return typing.get_args(kind)[0]
    return None


def _members(hint: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The types that a hint allows, each with the bounds that ``Annotated`` gives it."""
    notes: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    bare = hint.__origin__ if notes else hint
    if typing.get_origin(bare) in (types.UnionType, typing.Union):
        return [(kind, (*notes, *more)) for each in typing.get_args(bare) for kind, more in _members(each)]
    return [(bare, notes)]


def _bounds(notes: Iterable[object]) -> str:
    """`` of at least 0 and below 1``, `` above 0 and at most 100``."""
    words = []
    for note in notes:
        match note:
            case Ge(ge=bound):
                words.append(f"of at least {bound}")
            case Gt(gt=bound):
                words.append(f"above {bound}")
            case Le(le=bound):
                words.append(f"at most {bound}")
            case Lt(lt=bound):
                words.append(f"below {bound}")
    return f" {' and '.join(words)}" if words else ""
