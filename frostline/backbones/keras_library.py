"""Keras 3 as a library: on its torch backend whatever else is installed, and quiet."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from frostline.errors import BackboneError

CAUSE = "Exception encountered: "  # before what happened while a file was read
FRAMES = ("Exception encountered when calling", "Arguments received by")  # which Keras puts around a cause


def library() -> Any:
    """Keras, on its torch backend. Raises BackboneError where it is not installed or loaded with another backend."""
    if "keras" not in sys.modules:
        if importlib.util.find_spec("keras") is None:
            raise BackboneError("Keras is not installed, and a Keras network needs it: pip install 'frostline[keras]'")
        with on_torch(), quiet(), _muted():
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
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("KERAS_BACKEND", None)
        else:
            os.environ["KERAS_BACKEND"] = before


@contextmanager
def _muted() -> Generator[None]:
    """Nothing is written to standard error, by whatever language: TensorFlow greets whoever loads Keras beside it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


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
    """What went wrong, of a message that may go on for pages: its first line that is no frame around the cause."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in str(error).splitlines()]
    causes = [line.partition(CAUSE)[2] for line in lines if CAUSE in line]
    told = [line for line in (*causes, *lines) if line and not line.startswith(FRAMES)]
    return (told or [type(error).__name__])[0][:240].rstrip(".")
