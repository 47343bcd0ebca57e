"""Where images come from: built-in sets, folders and tars, as labelled records that nobody has decoded yet."""

from alexnet.data.sources.builtin import Say, data_home
from alexnet.data.sources.names import BUILTIN_SOURCES, open_source, reopened_by
from alexnet.data.sources.records import Record, Source, is_litter

__all__ = ["BUILTIN_SOURCES", "Record", "Say", "Source", "data_home", "is_litter", "open_source", "reopened_by"]
