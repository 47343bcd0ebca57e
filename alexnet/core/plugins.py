"""What other installed packages add to this one, by entry points (packaging.python.org: Entry points specification).

A package that declares ``[project.entry-points."alexnet.recipes"]`` adds recipes to this one. Its code is imported when
its entry is used, not before, so a package that cannot be imported stops nobody who does not use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast, overload

from alexnet.core.errors import UserError, one_line

Kind = TypeVar("Kind")


class EntryPoints(Mapping[str, Kind]):
    """The entry points of one group by name. Looking one up imports it; iterating over the names imports nothing.

    ``mapping[name]`` raises ``UserError``, one line that names the package, if the entry cannot be imported, is not of
    the right type, or is declared by two packages.
    """

    def __init__(self, group: str, kind: type[Kind]) -> None:
        self._group, self._kind = group, kind
        self._points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=group):
            self._points.setdefault(point.name, []).append(point)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._points))

    def __len__(self) -> int:
        return len(self._points)

    def __contains__(self, name: object) -> bool:
        return name in self._points

    def __getitem__(self, name: str) -> Kind:
        point, *others = self._points[name]
        packages = "packages" if others else "package"
        packages += " " + " and ".join(sorted(_package(each) for each in (point, *others)))
        where = f"{name!r} (entry point {self._group} of the {packages})"
        if others:
            raise UserError(f"{where} is declared twice: uninstall one of them")
        try:
            value = point.load()
            if callable(value) and not isinstance(value, self._kind):
                value = value()
        except (Exception, SystemExit) as error:
            raise UserError(f"{where} cannot be loaded: {one_line(error)}") from error
        if not isinstance(value, self._kind):
            kind = self._kind.__name__
            raise UserError(f"{where} is of type {type(value).__name__}, not a {kind} or a function that returns one")
        return value

    def usable(self, report: Callable[[str], None]) -> dict[str, Kind]:
        """Every entry that can be loaded; for each other one, ``report`` receives a line."""
        values = {}
        for name in self:
            try:
                values[name] = self[name]
            except UserError as error:
                report(error.line)
        return values


@overload
def entry_points_of(group: str) -> EntryPoints[object]: ...
@overload
def entry_points_of(group: str, kind: type[Kind]) -> EntryPoints[Kind]: ...
def entry_points_of(group: str, kind: type[Kind] | None = None) -> EntryPoints[Kind]:
    """The entry points that installed packages declare in a group, e.g. ``alexnet.recipes``.

    ``kind``: each entry is a value of this type, or a function without arguments that returns one.
    """
    return EntryPoints(group, kind or cast("type[Kind]", object))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"
