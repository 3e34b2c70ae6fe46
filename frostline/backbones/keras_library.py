"""Keras 3 as a library: on its torch backend whatever else is installed, and quiet."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from frostline.errors import BackboneError


def library() -> Any:
    """Keras, on its torch backend. Raises BackboneError where it is not installed or loaded with another backend."""
    if "keras" not in sys.modules:
        if importlib.util.find_spec("keras") is None:
            raise BackboneError("Keras is not installed, and a Keras network needs it: pip install 'frostline[keras]'")
        with on_torch(), quiet():
            import keras
    import keras

    if int(keras.__version__.partition(".")[0]) < 3:
        raise BackboneError(
            f"Keras is {keras.__version__}, and its torch backend came with 3.0: pip install 'keras>=3'"
        )
    backend = keras.backend.backend()
    if backend != "torch":
        raise BackboneError(
            f"Keras is loaded with the backend {backend!r} in this process, and Frostline trains on its torch backend. "
            "Set KERAS_BACKEND=torch before Python imports keras; or save the network with "
            "model.save('network.keras') and give that file to the `frostline` command or to another process"
        )
    return keras


@contextmanager
def on_torch() -> Generator[None]:
    """While open, whoever imports Keras for the first time gets its torch backend."""
    # TensorFlow, where it is installed too, is loaded with Keras and greets everybody
    wanted = {"KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def quiet() -> Generator[None]:
    """Keras asks NumPy in ways that NumPy 2 warns of; what goes wrong raises all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def drawn(seed: int) -> Generator[None]:
    """While open, fresh layers draw their weights from this seed, and are numbered from the beginning.

    Keras draws seeds from Python's own generator, which is the caller's, and so are the counts behind "conv2d_7".
    """
    state = random.getstate()
    random.seed(seed)
    with _numbered_anew():
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _numbered_anew() -> Generator[None]:
    counts: Any = None
    with suppress(ImportError):  # no public name for it; without it the numbers go on
        if "keras" in sys.modules:
            from keras.src.backend.common import global_state as counts
    if counts is None:
        yield
        return
    before = counts.get_global_attribute("object_name_uids", None)
    counts.set_global_attribute("object_name_uids", None)
    try:
        yield
    finally:
        counts.set_global_attribute("object_name_uids", before)


def is_keras(thing: Any) -> bool:
    """Whether it is a model of Keras, on whatever backend."""
    loaded = sys.modules.get("keras")
    return loaded is not None and isinstance(thing, loaded.Model)


def sentence(error: Exception) -> str:
    """What went wrong, of a message that may go on for pages: the words of Keras itself, else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line.partition("Exception encountered: ")[2] for line in lines if "Exception encountered: " in line]
    return (own or lines or [type(error).__name__])[0][:240]
