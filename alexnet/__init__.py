"""AlexNet in every published form: networks, recipes, training, evaluation and prediction.

``create_model("torchvision")``, ``train("small-digits")``, ``Predictor("runs/small-digits")("seven.png")``. Each name
is imported when it is first used, so ``import alexnet`` imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet.api import accelerate as accelerate
    from alexnet.api import convert as convert
    from alexnet.api import create_transform as create_transform
    from alexnet.api import evaluate as evaluate
    from alexnet.api import export as export
    from alexnet.api import extract_features as extract_features
    from alexnet.api import train as train
    from alexnet.api import verify as verify
    from alexnet.config import Recipe as Recipe
    from alexnet.core.errors import UserError as UserError
    from alexnet.inference.distance import perceptual_distance as perceptual_distance
    from alexnet.inference.predictor import Prediction as Prediction
    from alexnet.inference.predictor import Predictor as Predictor
    from alexnet.metrics.counts import Metrics as Metrics
    from alexnet.models.bundle import save_model as save_model
    from alexnet.plots.compose import plot as plot
    from alexnet.recipes import get_recipe as get_recipe
    from alexnet.runtime.run import Run as Run
    from alexnet.weights.create import create_model as create_model
    from alexnet.weights.create import list_models as list_models
    from alexnet.weights.load import load_model as load_model

_MODULES = {
    "Metrics": "alexnet.metrics.counts",
    "Prediction": "alexnet.inference.predictor",
    "Predictor": "alexnet.inference.predictor",
    "Recipe": "alexnet.config",
    "Run": "alexnet.runtime.run",
    "UserError": "alexnet.core.errors",
    "accelerate": "alexnet.api",
    "convert": "alexnet.api",
    "create_model": "alexnet.weights.create",
    "create_transform": "alexnet.api",
    "evaluate": "alexnet.api",
    "export": "alexnet.api",
    "extract_features": "alexnet.api",
    "get_recipe": "alexnet.recipes",
    "list_models": "alexnet.weights.create",
    "load_model": "alexnet.weights.load",
    "perceptual_distance": "alexnet.inference.distance",
    "plot": "alexnet.plots.compose",
    "save_model": "alexnet.models.bundle",
    "train": "alexnet.api",
    "verify": "alexnet.api",
}

__all__ = [
    "Metrics",
    "Prediction",
    "Predictor",
    "Recipe",
    "Run",
    "UserError",
    "accelerate",
    "convert",
    "create_model",
    "create_transform",
    "evaluate",
    "export",
    "extract_features",
    "get_recipe",
    "list_models",
    "load_model",
    "perceptual_distance",
    "plot",
    "save_model",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
