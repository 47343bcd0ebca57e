"""AlexNet in every published form.

The front door: ``create_model``, ``load_model``, ``get_recipe``, ``train``, ``evaluate``, ``Predictor``.
Names are imported when they are first used, so that ``import alexnet`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.api import evaluate as evaluate
    from alexnet.api import train as train
    from alexnet.inference.predictor import Predictor as Predictor
    from alexnet.models.bundle import load_model as load_model
    from alexnet.models.registry import create_model as create_model
    from alexnet.plots.compose import plot as plot
    from alexnet.recipes import get_recipe as get_recipe

_HOME = {
    "create_model": "alexnet.models.registry",
    "load_model": "alexnet.models.bundle",
    "get_recipe": "alexnet.recipes",
    "train": "alexnet.api",
    "evaluate": "alexnet.api",
    "Predictor": "alexnet.inference.predictor",
    "plot": "alexnet.plots.compose",
}

__all__ = ["Predictor", "create_model", "evaluate", "get_recipe", "load_model", "plot", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
