"""The command line that repeats a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from frostline.settings import Settings, apart

# said already, or change nothing
UNSAID = (
    *("data", "backbone", "weights", "rivals", "rival_weights", "strategies"),
    *("resume", "out", "workers", "threads", "recalibrate", "log"),
)
DEFAULTS: Mapping[str, Any] = Settings("", "").document()


def line(settings: Settings) -> str:
    """Every setting that is not its default."""
    verb = "compare" if settings.strategies == "known" else "find"
    words = ["frostline", verb, settings.data]
    for each in apart(settings):
        words += ["--backbone", each.backbone]
        if each.weights is not None or any(file is not None for file in (settings.weights, *settings.rival_weights)):
            words += ["--weights", each.weights or "own"]
    for name, value in settings.document().items():
        if name in UNSAID or value == DEFAULTS[name]:
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "model_kwargs":
            words += [part for key, setting in value.items() for part in (flag, f"{key}={setting}")]
        elif isinstance(value, (list, tuple)):
            words += [flag, ",".join(map(str, value))]
        else:
            words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
