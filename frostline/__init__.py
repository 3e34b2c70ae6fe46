"""How many layers of a pre-trained network to transfer, how many to freeze: answered from your own data.

The names below are loaded when they are first asked for (PEP 562), so that `import frostline` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline.estimator import FrostlineClassifier
    from frostline.journey import Result, compare, export, find, layers, load, probe, train
    from frostline.values import Plan, Recipe

__all__ = [
    "FrostlineClassifier",
    "Plan",
    "Recipe",
    "Result",
    "compare",
    "export",
    "find",
    "layers",
    "load",
    "probe",
    "train",
]

_HOMES = {
    "FrostlineClassifier": "estimator",
    "Plan": "values",
    "Recipe": "values",
    "Result": "journey",
    "compare": "journey",
    "export": "journey",
    "find": "journey",
    "layers": "journey",
    "load": "journey",
    "probe": "journey",
    "train": "journey",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("frostline")
    if name not in _HOMES:
        raise AttributeError(f"module 'frostline' has no attribute {name!r}")
    return getattr(import_module(f"frostline.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
