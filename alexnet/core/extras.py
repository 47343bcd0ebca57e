"""Packages that are not installed with this one: extras, imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from alexnet.core.errors import UserError


def require(module: str, extra: str, what: str) -> ModuleType:
    """Import ``module``, which the extra ``extra`` installs. ``what``: what needs it, the subject of the error.

    Raises ``UserError`` if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs {module}: run pip install 'alexnet[{extra}]'") from error
