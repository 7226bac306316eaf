# SPDX-License-Identifier: Apache-2.0
"""Writes the .onnx files beside this one: small Keras models of random weights, by tf2onnx.

    pip install tensorflow-cpu==2.21.0 tf2onnx==1.17.0 onnx==1.23.2     (with Keras 3.15.1)
    python make.py

TensorFlow is too large to be installed for a test, so its exports are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import layers

OPSET = 18


def gelu(x: Any) -> Any:
    """Gelu by erf as TensorFlow spelled it before 2.20; tf2onnx does not know Erfc, used since."""
    return 0.5 * x * (1.0 + tf.math.erf(x / tf.sqrt(2.0)))


def convolutional() -> keras.Model:
    """MobileNet's parts: BatchNormalization, hard activations, squeeze-excite in two forms."""
    x = given = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.Activation("swish")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
    x = layers.Activation("hard_swish")(layers.BatchNormalization()(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)])
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(8, activation="sigmoid")(layers.Dense(4, activation="swish")(gate))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 1, activation="relu")(x)
    return keras.Model(given, layers.Dense(5, activation="softmax")(layers.Flatten()(x)))


def normalized() -> keras.Model:
    """Group, instance, layer, and RMS normalization of images, and Mish."""
    x = given = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Activation("silu")(layers.GroupNormalization(4)(x))
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Activation("mish")(layers.GroupNormalization(-1)(x))
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Activation(gelu)(layers.LayerNormalization(epsilon=1e-6)(x))
    x = layers.Conv2D(8, 1)(layers.RMSNormalization()(x))
    return keras.Model(given, layers.GlobalAveragePooling2D()(x))


def preactivated() -> keras.Model:
    """Blocks of ResNet v2: BatchNormalization that no convolution stands before."""
    x = given = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        y = layers.Activation("relu")(layers.BatchNormalization()(x))
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(y)])
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    return keras.Model(given, layers.GlobalAveragePooling2D()(x))


def transformer() -> keras.Model:
    """An encoder of text: MultiHeadAttention, LayerNormalization, three activations."""
    given = layers.Input((12,), dtype="int32")
    x = layers.Embedding(50, 16)(given)
    for activation in (gelu, lambda x: keras.activations.gelu(x, approximate=True), "silu"):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y)])
        y = layers.Dense(32, activation=activation)(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(16)(y)])
    return keras.Model(given, layers.LayerNormalization()(x))


def recurrent() -> keras.Model:
    """LSTM in both directions, and GRU."""
    x = given = layers.Input((None, 4))
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.GRU(4, return_sequences=True)(x)
    return keras.Model(given, layers.Dense(3)(x))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "keras-convolutional": convolutional,
    "keras-normalized": normalized,
    "keras-preactivated": preactivated,
    "keras-transformer": transformer,
    "keras-recurrent": recurrent,
}


def disturb(model: keras.Model) -> None:
    """Give biases, scales and statistics values that show a mistake with them."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        array = np.asarray(weight)
        if array.dtype.kind == "f":
            noise = 0.1 * rng.standard_normal(array.shape)
            weight.assign(array + (abs(noise) if "variance" in weight.path else noise))


def export(name: str, build: Callable[[], keras.Model]) -> None:
    """Write a model; the axis of samples may have any size, as in Keras."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = build()
    disturb(model)
    specs = [tf.TensorSpec(item.shape, item.dtype, name="x") for item in model.inputs]
    function = tf.function(lambda x: model(x, training=False), input_signature=specs)
    proto, _ = tf2onnx.convert.from_function(function, input_signature=specs, opset=OPSET)
    onnx.save(proto, Path(__file__).with_name(f"{name}.onnx"))


if __name__ == "__main__":
    for name, build in MODELS.items():
        export(name, build)
