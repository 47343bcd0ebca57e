"""Sources: built-in sets, folders, tars and zips: labelled images, not decoded yet. ``registry.py`` lists them."""

from alexnet.data.sources.folders import list_images
from alexnet.data.sources.records import Annotations, Log, Record, Source
from alexnet.data.sources.registry import BUILTIN_SOURCES, absolute_source, absolute_text, is_builtin, open_source

__all__ = [
    "BUILTIN_SOURCES",
    "Annotations",
    "Log",
    "Record",
    "Source",
    "absolute_source",
    "absolute_text",
    "is_builtin",
    "list_images",
    "open_source",
]
