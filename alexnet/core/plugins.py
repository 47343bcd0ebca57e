"""What installed packages add: objects behind entry points, loaded one by one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

Kind = TypeVar("Kind")


def entry_points_of(group: str, kind: type[Kind]) -> Mapping[str, Kind]:
    """Name → the object behind each entry point of a group.

    An entry that cannot be loaded, or is not a ``kind``, is left out with one warning that names its package.
    """
    found: dict[str, Kind] = {}
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist else "an installed package"
        try:
            value = entry.load()
        except Exception as error:  # somebody else's package: whatever it raises costs this entry only
            warnings.warn(f"{package}: {group} entry {entry.name!r} cannot be loaded: {error}", stacklevel=2)
            continue
        if isinstance(value, kind):
            found[entry.name] = value
        else:
            warnings.warn(f"{package}: {group} entry {entry.name!r} is not a {kind.__name__}", stacklevel=2)
    return found
