"""How a medical image is shown: the window of its grey levels, and the frame of several.

A grey DICOM image has up to 65,536 grey levels and a screen 256, so a window chooses which of them can be seen: its
centre and its width, in the units of the file (Hounsfield units in CT). Recipes and models hold this choice
(``data.window``, ``data.frame``), so that ``predict`` shows an image as ``train`` did.

The presets are those of Bell, Murphy et al., "Windowing (CT)", https://radiopaedia.org/articles/windowing-ct.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from alexnet.core.errors import UserError

FILE = "file"  # the window that the file itself states
PRESETS = {"lung": (-600.0, 1500.0), "brain": (40.0, 80.0), "bone": (400.0, 1800.0), "abdomen": (50.0, 400.0)}
"""Name → centre and width in Hounsfield units, for CT."""

_WINDOW = re.compile(r"(-?\d{1,6}(?:\.\d{1,6})?)/(\d{1,6}(?:\.\d{1,6})?)", re.ASCII)


class DicomView(NamedTuple):
    """``window``: ``file``, a name of ``PRESETS`` or ``CENTRE/WIDTH``. ``frame``: of several, counted from 1."""

    window: str = FILE
    frame: int = 1

    @property
    def window_values(self) -> tuple[float, float] | None:
        """Centre and width; None for the window of the file. Raises ``UserError`` for any other text."""
        return parse_window(self.window)


AS_STATED = DicomView()
"""The first window and the first frame of each file."""


def parse_window(text: str) -> tuple[float, float] | None:
    """Centre and width of a window, e.g. of "40/400" or "lung"; None for "file". Raises ``UserError``."""
    if text == FILE:
        return None
    if text in PRESETS:
        return PRESETS[text]
    found = _WINDOW.fullmatch(text)
    if not found or not math.isfinite(width := float(found[2])) or width <= 0:
        raise UserError(
            f"window = {text!r}: give file, {', '.join(PRESETS)}, or CENTRE/WIDTH with a width above 0, e.g. 40/400"
        )
    return float(found[1]), width
