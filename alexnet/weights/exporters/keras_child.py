"""What runs in the child process with Keras: a network is built from its description and saved, or loaded and run.

See ``keras.py`` for the description. The network is a Functional model of Keras's own layers and operations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from alexnet.weights.child import Exchange

LAST = "channels_last"  # in each layer: a user's own default may be another
BATCH = 8
Arrays = dict[str, NDArray[Any]]


def write(path: Path, exchange: Exchange) -> None:
    """Save the network that ``exchange.arguments`` describes, with the weights in ``exchange.inputs()``."""
    description, arrays = exchange.arguments, exchange.inputs()
    x = images = keras.Input(tuple(description["input"]), name="images")
    for step in description["steps"]:
        parts = {key.rpartition(".")[2]: arrays[key] for key in arrays if key.rpartition(".")[0] == step["name"]}
        x = _add(step, parts, x)
    keras.Model(images, x, name=description["name"]).save(path)


def predict(path: Path, exchange: Exchange) -> None:
    """The logits of the images ``(N, S, S, C)`` in ``exchange.inputs()``."""
    model = keras.models.load_model(path, compile=False)
    images = exchange.inputs()["images"]
    parts = [
        keras.ops.convert_to_numpy(
            keras.ops.stop_gradient(model(np.array(images[start : start + BATCH]), training=False))
        )
        for start in range(0, len(images), BATCH)
    ]
    exchange.add("logits", np.concatenate(parts))


def _add(step: dict[str, Any], arrays: Arrays, x: Any) -> Any:
    """The output of one step."""
    layers, name = keras.layers, step["name"]
    match step["op"]:
        case "conv":
            if not step["same"]:
                x = _pad(x, step["pads"], name)
            settings = {"strides": step["stride"], "groups": step["groups"], "data_format": LAST, "name": name}
            padding = "same" if step["same"] else "valid"
            conv = layers.Conv2D(
                step["filters"], step["kernel"], padding=padding, use_bias="bias" in arrays, **settings
            )
            return _with_weights(conv, x, arrays, ("kernel", "bias"))
        case "dense":
            dense = layers.Dense(step["units"], use_bias="bias" in arrays, name=name)
            return _with_weights(dense, x, arrays, ("kernel", "bias"))
        case "batch-norm":
            norm = layers.BatchNormalization(epsilon=step["epsilon"], name=name)
            return _with_weights(norm, x, arrays, ("gamma", "beta", "moving_mean", "moving_variance"))
        case "activation":
            return layers.Activation(step["kind"], name=name)(x)
        case "lrn":
            squares = layers.Multiply(name=f"{name}_squares")([x, x])
            settings = {"groups": step["groups"], "data_format": LAST, "trainable": False, "name": f"{name}_sum"}
            total = _with_weights(layers.Conv2D(x.shape[-1], 1, **settings), squares, arrays, ("kernel", "bias"))
            return layers.Multiply(name=name)([x, keras.ops.power(total, -step["beta"])])
        case "within-channel-lrn":
            squares = layers.Multiply(name=f"{name}_squares")([x, x])
            padded = _pad(squares, [step["size"] // 2] * 2, name)
            mean = layers.AveragePooling2D(step["size"], 1, data_format=LAST, name=f"{name}_mean")(padded)
            scaled = layers.Rescaling(step["alpha"], step["k"], name=f"{name}_scaled")(mean)
            return layers.Multiply(name=name)([x, keras.ops.power(scaled, -step["beta"])])
        case "max-pool" | "average-pool":
            pool = layers.MaxPooling2D if step["op"] == "max-pool" else layers.AveragePooling2D
            padding = "same" if step["same"] else "valid"
            settings = {"padding": padding, "data_format": LAST, "name": name}
            return pool(step["kernel"], step["stride"], **settings)(_pad(x, step["pads"], name))
        case "flatten":
            return layers.Flatten(data_format=LAST, name=name)(x)
        case "dropout":
            return layers.Dropout(step["p"], name=name)(x)
        case op:
            raise ValueError(f"unknown step {op}")


def _pad(x: Any, pads: list[int], name: str) -> Any:
    """The maps with zeros before and behind both axes."""
    if not any(pads):
        return x
    return keras.layers.ZeroPadding2D((tuple(pads), tuple(pads)), data_format=LAST, name=f"{name}_pad")(x)


def _with_weights(layer: Any, x: Any, arrays: Arrays, names: tuple[str, ...]) -> Any:
    y = layer(x)
    layer.set_weights([np.array(arrays[key]) for key in names if key in arrays])
    return y
