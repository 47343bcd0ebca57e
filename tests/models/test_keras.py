"""Parity of the ``keras`` variant with Keras itself: the retelling's Sequential, on Keras's torch backend."""

import math
import os

import pytest
import torch

from alexnet.models.registry import create_model

os.environ.setdefault("KERAS_BACKEND", "torch")  # read once, when keras is imported
keras = pytest.importorskip("keras", reason="keras is not installed: pip install 'alexnet[dev]'")
if keras.backend.backend() != "torch":
    pytest.skip("keras runs on another backend here: set KERAS_BACKEND=torch", allow_module_level=True)


def document():
    """The retelling's create_model, line by line."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((224, 224, 3)),
            layers.Conv2D(filters=96, kernel_size=(11, 11), strides=(4, 4), activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2)),
            layers.Conv2D(filters=256, kernel_size=(5, 5), activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2)),
            layers.Conv2D(filters=384, kernel_size=(3, 3), activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.Conv2D(filters=384, kernel_size=(3, 3), activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.Conv2D(filters=256, kernel_size=(3, 3), activation="relu", padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2)),
            layers.Flatten(),
            layers.Dense(units=4096, activation="relu"),
            layers.Dropout(rate=0.5),
            layers.Dense(units=4096, activation="relu"),
            layers.Dropout(rate=0.5),
            layers.Dense(units=1000, activation="softmax"),
        ]
    )


def as_ours(model):
    """Keras's weights under our keys: kernels HWIO → OIHW, fc6's inputs (row, column, channel) → channels first."""
    kinds = (keras.layers.Conv2D, keras.layers.BatchNormalization, keras.layers.Dense)
    state, conv, dense = {}, 0, 5
    for layer in model.layers:
        values = [variable.value.detach().clone() for variable in layer.weights] if isinstance(layer, kinds) else []
        if isinstance(layer, keras.layers.Conv2D):
            conv += 1
            state[f"conv{conv}.weight"], state[f"conv{conv}.bias"] = values[0].permute(3, 2, 0, 1), values[1]
        elif isinstance(layer, keras.layers.BatchNormalization):
            names = ("weight", "bias", "running_mean", "running_var")
            state.update({f"norm{conv}.{name}": value for name, value in zip(names, values, strict=True)})
            state[f"norm{conv}.num_batches_tracked"] = torch.tensor(0)
        elif isinstance(layer, keras.layers.Dense):
            dense += 1
            weight = values[0].T
            if dense == 6:
                weight = weight.reshape(-1, 6, 6, 256).permute(0, 3, 1, 2).flatten(1)
            state[f"fc{dense}.weight"], state[f"fc{dense}.bias"] = weight, values[1]
    return state


@pytest.fixture(scope="module")
def theirs():
    keras.utils.set_random_seed(0)
    model = document()
    for layer in model.layers:  # averages and scales that are not the identity's
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(0.5 + torch.rand(tuple(variable.shape)))
    return model


@pytest.fixture
def ours(theirs):
    network = create_model("keras", num_classes=1000, seed=0, dropout=0)
    network.load_state_dict(as_ours(theirs))
    return network.eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def run(layers, x, training=False):
    """Keras's layers by hand, so that batch norm can train while dropout, whose draws nobody shares, does not."""
    for layer in layers:
        learns = training and isinstance(layer, keras.layers.BatchNormalization)
        x = layer(x, training=learns) if isinstance(layer, keras.layers.BatchNormalization) else layer(x)
    return x


def nhwc(x):
    return x.permute(0, 2, 3, 1).contiguous()


def test_parameter_counts_are_kerass(theirs):
    trained = sum(math.prod(weight.shape) for weight in theirs.trainable_weights)
    buffers = sum(math.prod(weight.shape) for weight in theirs.non_trainable_weights)
    drawn = 2  # a dropout layer of Keras also keeps the state of its own generator
    assert trained == 62_381_096
    assert buffers in (2752, 2752 + 2 * drawn)


def test_inference_is_kerass(theirs, ours, images):
    with torch.no_grad():
        expected = theirs(nhwc(images), training=False)
        torch.testing.assert_close(ours(images).softmax(1), expected, rtol=1e-4, atol=1e-6)
        before_flatten = next(i for i, layer in enumerate(theirs.layers) if isinstance(layer, keras.layers.Flatten))
        maps = run(theirs.layers[:before_flatten], nhwc(images)).permute(0, 3, 1, 2)
    seen = {}
    ours.fc6.register_forward_hook(lambda _, inputs, __: seen.update(pool5=inputs[0]))
    with torch.no_grad():
        ours(images)
    torch.testing.assert_close(seen["pool5"], maps.flatten(1), rtol=1e-4, atol=1e-5)


def test_batch_norm_in_training_is_kerass(theirs, ours, images):
    with torch.no_grad():
        probabilities = ours.train()(images).softmax(1)
        expected = run(theirs.layers, nhwc(images), training=True)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-6)
    after = as_ours(theirs)  # Keras moved its averages
    for number in range(1, 6):
        mean, variance = f"norm{number}.running_mean", f"norm{number}.running_var"
        torch.testing.assert_close(ours.state_dict()[mean], after[mean], rtol=1e-4, atol=1e-5)
        # torch averages the unbiased variance, Keras the biased: they differ by count/(count − 1)
        torch.testing.assert_close(ours.state_dict()[variance], after[variance], rtol=1e-3, atol=1e-5)
