"""Small networks of Keras of every kind, as factories of a user's file. Keras is loaded when one is built."""

from __future__ import annotations

from typing import Any

SIZE, CLASSES = 16, 4


def chain() -> Any:
    """Sequential, without a norm."""
    import keras

    convolution = keras.layers.Conv2D
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            convolution(6, 3, activation="relu"),
            keras.layers.MaxPool2D(),
            convolution(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def forget_names() -> None:
    """Keras counts its layers from the beginning again, as a fresh process does."""
    import keras

    keras.utils.clear_session(free_memory=False)


def residual() -> Any:
    """Functional, with batch norms, dropout and residual additions; it scales its pictures itself."""
    import keras

    layers = keras.layers
    given = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, -1)(given)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    for number in range(3):
        inner = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"first{number}")(x)
        inner = layers.Dropout(0.2)(layers.Activation("relu")(layers.BatchNormalization()(inner)))
        inner = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"second{number}")(inner)
        x = layers.Activation("relu")(layers.Add()([x, layers.BatchNormalization()(inner)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(CLASSES, activation="softmax")(layers.Dropout(0.2)(x)), name="residual")


def nested() -> Any:
    """A backbone inside of a model, as Keras' guide to transfer learning builds it."""
    import keras

    layers = keras.layers
    given = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(6, 3, strides=2, name="low")(given)
    x = layers.Conv2D(8, 3, activation="relu", name="high")(layers.BatchNormalization(name="norm")(x))
    base = keras.Model(given, x, name="base")
    outer = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(base(layers.Rescaling(1 / 255)(outer), training=False))
    return keras.Model(outer, layers.Dense(CLASSES)(x), name="nested")


def subclassed() -> Any:
    """A class of the user's own with parts in a list, one of them a layer of the user's own."""
    model = classes()[1](width=8, classes=CLASSES)
    import numpy as np

    model(np.zeros((1, SIZE, SIZE, 3), "float32"))
    return model


def attention() -> Any:
    """A vision transformer of two blocks."""
    import keras

    layers = keras.layers
    given = keras.Input((SIZE, SIZE, 3))
    x = layers.Reshape((16, 12))(
        layers.Conv2D(12, 4, strides=4, name="patches")(layers.Rescaling(1 / 127.5, -1)(given))
    )
    for number in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(2, 6, name=f"attention{number}")(y, y)])
        y = layers.Dense(24, activation="gelu", name=f"mlp{number}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(12)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(given, layers.Dense(CLASSES)(x), name="attention")


def adapted() -> Any:
    """It scales by statistics that it measured, adds by `+`, holds a layer of the user's own and shares weights."""
    import keras
    import numpy as np

    layers = keras.layers
    given = keras.Input((SIZE, SIZE, 3))
    scale = layers.Normalization(name="scale")
    scale.adapt(np.random.default_rng(0).uniform(50, 200, (8, SIZE, SIZE, 3)))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(scale(given))
    x = layers.Conv2D(8, 3, padding="same", name="one")(x) + x
    x = classes()[0](8, name="own")(x)
    twice = layers.Conv2D(8, 3, padding="same", activation="relu", name="twice")
    x = twice(layers.MaxPool2D()(twice(x)))
    x = layers.SpectralNormalization(layers.Conv2D(8, 3, name="inner"), name="spectral")(x)
    return keras.Model(given, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)), name="adapted")


def learned() -> Any:
    """A network that brings weights of its own, the same at every call."""
    import keras
    import numpy as np

    model = residual()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([rng.normal(0, 0.2, weight.shape) for weight in layer.get_weights()])
    return model


def classes() -> tuple[Any, Any]:
    import keras

    class Block(keras.layers.Layer):
        def __init__(self, width: int, **named: Any) -> None:
            super().__init__(**named)
            self.width = width
            self.convolutions = [keras.layers.Conv2D(width, 3, padding="same", activation="relu") for _ in range(2)]
            self.norm = keras.layers.BatchNormalization()

        def call(self, x: Any, training: Any = None) -> Any:
            y = x
            for convolution in self.convolutions:
                y = convolution(y)
            return self.norm(y, training=training) + x

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "width": self.width}

    class Net(keras.Model):
        def __init__(self, width: int, classes: int, **named: Any) -> None:
            super().__init__(**named)
            self.width, self.classes = width, classes
            self.stem = keras.layers.Conv2D(width, 3, strides=2, activation="relu")
            self.blocks = [Block(width) for _ in range(2)]
            self.pool = keras.layers.GlobalAveragePooling2D()
            self.drop = keras.layers.Dropout(0.3)
            self.out = keras.layers.Dense(classes)

        def call(self, x: Any, training: Any = None) -> Any:
            x = self.stem(x)
            for block in self.blocks:
                x = block(x, training=training)
            return self.out(self.drop(self.pool(x), training=training))

        def get_config(self) -> dict[str, Any]:
            return {"width": self.width, "classes": self.classes}

    return Block, Net
