"""Image classifiers of KerasHub, where that library is installed: by the name of a preset, or from its folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frostline.backbones.keras_library import library, quiet, sentence
from frostline.backbones.sources import REMEDY, Options
from frostline.errors import BackboneError, WeightsError


def presets() -> tuple[str, ...]:
    """The names it knows; none where it is not installed."""
    if find_spec("keras_hub") is None:
        return ()
    return tuple(sorted(_classifier().presets))


def preset(name: str, pretrained: bool, options: Options) -> Any:
    """The classifier of a preset, with its weights or with random ones; None where that is no preset here.

    Raises BackboneError for options that it does not take, WeightsError where its files cannot be had.
    """
    folder = Path(name).expanduser()
    if not (folder / "task.json").is_file() and name not in presets():
        return None
    if find_spec("keras_hub") is None:
        raise BackboneError(f"{name!r} is a preset of KerasHub, which is not installed: pip install keras-hub")
    try:
        with quiet(), library().device("cpu"):
            place = str(folder) if folder.is_dir() else name
            return _classifier().from_preset(place, load_weights=pretrained, **options)
    except TypeError as error:
        raise BackboneError(
            f"keras/{name} cannot be built with the options {dict(options)}: {sentence(error)}; options are those of "
            "keras_hub.models.ImageClassifier.from_preset"
        ) from error
    except Exception as error:  # whatever fetching and reading may raise
        raise WeightsError(f"keras/{name} cannot be had ({sentence(error)}); {REMEDY}") from error


def _classifier() -> Any:
    library()  # before KerasHub loads Keras with another backend
    with quiet():
        import keras_hub  # pyright: ignore[reportMissingImports]  # asked for with find_spec
    return keras_hub.models.ImageClassifier
