"""The networks for ``torch.hub``: one function for each variant, with ``_`` in place of ``-``.

``torch.hub.load(FOLDER, "cuda_convnet", source="local", num_classes=10)`` builds the variant ``cuda-convnet`` from a
checkout in ``FOLDER``. The arguments are those of :func:`alexnet.create_model`: ``weights="imagenet"`` gives the
published weights of ``torchvision``, ``bvlc_alexnet`` and ``caffenet``.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from typing import Any as _Any

import torch as _torch

from alexnet.weights.create import create_model as _create_model
from alexnet.weights.create import list_models as _list_models

dependencies = ["torch", "numpy", "pydantic", "safetensors"]


def _entry_point(name: str) -> _Callable[..., _torch.nn.Module]:
    def build(**arguments: _Any) -> _torch.nn.Module:
        return _create_model(name, **arguments)

    build.__name__ = name.replace("-", "_")
    build.__doc__ = f"The variant ``{name}``; the arguments of ``alexnet.create_model``."
    return build


globals().update({_name.replace("-", "_"): _entry_point(_name) for _name in _list_models()})
