"""A model of alexnet as a model of Brain-Score (brainscore_vision): a plugin's ``__init__.py``.

It was run against a stub of Brain-Score's documented interface only. The ReLUs of these networks do not work in place,
so ``conv5`` is before the ReLU and ``relu5`` after it, on every device.
"""

import functools

import numpy as np
from brainscore_vision import model_registry
from brainscore_vision.model_helpers.activations.pytorch import PytorchWrapper
from brainscore_vision.model_helpers.brain_transformation import ModelCommitment

from alexnet import create_transform, load_model

MODEL = "torchvision/imagenet"  # a run, a weights file, or a name from `alexnet list weights`
LAYERS = ["relu1", "pool2", "relu3", "relu4", "relu5", "relu6", "relu7"]
SEEDS = 3  # untrained controls of the same architecture


def commitment(identifier: str, seed: int | None = None) -> ModelCommitment:
    """What Brain-Score scores. ``seed``: of random weights instead of the trained ones, with the same preprocessing."""
    network = load_model(MODEL)
    if seed is not None:
        network.init_weights(seed)
    transform = create_transform(network)

    def preprocessing(paths: list[str]) -> np.ndarray:
        return np.stack([transform(path).numpy() for path in paths])

    wrapper = PytorchWrapper(identifier=identifier, model=network, preprocessing=preprocessing)
    wrapper.image_size = network.image_size
    return ModelCommitment(identifier=identifier, activations_model=wrapper, layers=LAYERS)


model_registry["alexnet"] = functools.partial(commitment, "alexnet")
for number in range(SEEDS):
    name = f"alexnet-untrained-{number}"
    model_registry[name] = functools.partial(commitment, name, number)
