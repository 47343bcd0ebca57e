"""Where images come from: built-in sets, folders and tars, as labelled records that nobody has decoded yet."""

from alexnet.data.sources.builtin import Log, data_home
from alexnet.data.sources.records import Record, Source, is_litter
from alexnet.data.sources.registry import BUILTIN_SOURCES, open_source, reopened_by

__all__ = ["BUILTIN_SOURCES", "Log", "Record", "Source", "data_home", "is_litter", "open_source", "reopened_by"]
