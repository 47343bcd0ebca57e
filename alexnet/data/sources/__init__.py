"""Sources: built-in sets, folders, tars and zips: labelled images, not decoded yet. ``registry.py`` lists them."""

from alexnet.data.sources.records import Log, Record, Source, is_ignored_name
from alexnet.data.sources.registry import BUILTIN_SOURCES, absolute_source, open_source

__all__ = ["BUILTIN_SOURCES", "Log", "Record", "Source", "absolute_source", "is_ignored_name", "open_source"]
