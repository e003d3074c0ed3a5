"""Saves small models with a real Keras, in every format that it has, with inputs and what it answers to them.

    python save_models.py FOLDER tf_keras|keras

Runs in an environment of its own (`make keras`), so it imports nothing of this repository. Each model becomes
`<name>.h5`, `<name>.keras`, with Keras 2 `<name>.saved.zip` too, and `<name>.npz` (inputs, outputs). What it wrote once
is in saved_models.zip, for all who have no Keras.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def dense(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax", kernel_constraint=keras.constraints.MaxNorm(2.0)),
        ]
    )


def images(keras: Any) -> Any:
    """Convolutions of every kind, normalisation, and layers that are frozen."""
    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, trainable=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU(max_value=6)(x)
    left = layers.SeparableConv2D(5, 3, strides=2, activation="elu", padding="same")(x)
    right = layers.DepthwiseConv2D(3, strides=2, padding="same")(layers.ZeroPadding2D(1)(x))
    right = layers.Cropping2D(((1, 0), (0, 1)))(right)
    right = layers.Conv2D(5, 1, activation="tanh")(right)
    x = layers.Add()([left, right])
    x = layers.Concatenate()([x, layers.LeakyReLU()(left)])
    x = layers.BatchNormalization(trainable=False, scale=False)(x)
    x = layers.Conv2DTranspose(4, 2, strides=2)(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.MaxPooling2D()(x))
    x = layers.PReLU(shared_axes=[1, 2])(x)
    x = layers.LayerNormalization()(layers.AveragePooling2D(2)(x))
    x = layers.Flatten()(x)
    x = layers.Dense(8, activation="gelu")(x)
    return keras.Model(inputs, layers.Dense(2, activation="sigmoid", name="head")(x), name="images")


def words(keras: Any) -> Any:
    """Embedding, recurrent layers, their wrappers, and states that are handed on."""
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(11, 4)(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
    x = layers.TimeDistributed(layers.Dense(4, activation="selu"))(x)
    x = layers.GRU(4, return_sequences=True, reset_after=False)(x)
    encoded, state_h, state_c = layers.LSTM(3, return_state=True, return_sequences=True)(x)
    x = layers.LSTM(3, return_sequences=True)(encoded, initial_state=[state_h, state_c])
    x = layers.SimpleRNN(3, return_sequences=True)(x)
    x = layers.Conv1D(3, 2, activation="swish")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def nested(keras: Any) -> Any:
    """Models inside of models, one used twice, one frozen as a whole, and two outputs."""
    layers = keras.layers
    inner_in = keras.Input((4,))
    normal = layers.BatchNormalization()(layers.Dense(4, activation="relu", trainable=False)(inner_in))
    inner = keras.Model(inner_in, layers.Dense(4)(normal), name="inner")
    chain = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="tanh"), layers.Dense(4)], name="chain")
    frozen = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()], name="frozen")
    frozen.trainable = False
    first, second = keras.Input((4,), name="first"), keras.Input((4,), name="second")
    shared = layers.Dense(4, name="shared")
    x = layers.Add()([inner(shared(first)), inner(shared(second)), chain(second)])
    x = layers.Multiply()([frozen(x), chain(x)])
    x = layers.Maximum()([x, first])
    return keras.Model([first, second], [layers.Dense(2, name="a")(x), layers.Dense(3, name="b")(x)])


def stacked(keras: Any) -> Any:
    """A model inside of a Sequential one."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False)(inputs)
    base = keras.Model(inputs, layers.BatchNormalization()(x), name="base")
    base.trainable = False
    return keras.Sequential([base, layers.GlobalMaxPooling2D(), layers.Dense(3), layers.Softmax()])


MODELS = (dense, images, words, nested, stacked)


def input_for(tensor: Any, dice: np.random.Generator) -> np.ndarray:
    shape = (3, *tensor.shape[1:])
    kind = tensor.dtype if isinstance(tensor.dtype, str) else tensor.dtype.name
    return dice.integers(0, 11, shape).astype("int32") if kind == "int32" else dice.normal(size=shape).astype("float32")


def save(keras: Any, build: Any, folder: Path) -> Any:
    """The model as well, for who goes on with it."""
    keras.backend.clear_session()
    dice = np.random.default_rng(7)
    model = build(keras)
    # Variances must be positive, and every tensor differs from what it would be initialised with.
    model.set_weights([dice.uniform(0.1, 0.9, weight.shape).astype("float32") for weight in model.get_weights()])
    losses = ["mse"] * len(model.outputs)
    model.compile(optimizer=keras.optimizers.Adam(0.004), loss=losses if len(losses) > 1 else "mse")
    inputs = [input_for(tensor, dice) for tensor in model.inputs]
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    name = build.__name__
    arrays = {f"input_{index}": value for index, value in enumerate(inputs)}
    arrays |= {f"output_{index}": value for index, value in enumerate(outputs)}
    np.savez(folder / f"{name}.npz", **arrays)
    model.save(folder / f"{name}.h5")
    model.save(folder / f"{name}.keras")
    if keras.__name__ == "tf_keras":
        with tempfile.TemporaryDirectory() as saved:
            model.save(saved, save_format="tf")
            (Path(saved) / "saved_model.pb").write_bytes(b"")  # the graph, which is most of it, and is never read
            shutil.make_archive(str(folder / f"{name}.saved"), "zip", saved)
    return model


def main() -> None:
    folder, library = Path(sys.argv[1]), importlib.import_module(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for build in MODELS:
        save(library, build, folder)


if __name__ == "__main__":
    main()
