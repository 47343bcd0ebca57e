"""Where images come from: built-in sets, folders and tars, as labelled records that nobody has decoded yet."""

from alexnet.data.sources.builtin import Say, data_home
from alexnet.data.sources.names import BUILTIN_SOURCES, absolute, open_source
from alexnet.data.sources.records import Record, Source

__all__ = ["BUILTIN_SOURCES", "Record", "Say", "Source", "absolute", "data_home", "open_source"]
