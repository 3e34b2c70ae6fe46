"""Calibrations that this machine remembers: measured once for a network and its data, and then the same answer again.

A small file each, below the user's cache folder; delete it, or ask for --recalibrate, to measure anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import joblib
import torch
from pydantic import TypeAdapter, ValidationError

from frostline.activations.chunks import write_whole
from frostline.errors import StoreError
from frostline.values import Calibration, Layer, Precision, Prepared

FORMAT = "frostline.calibration/4"  # part of every mark: what is measured otherwise is not taken for it


def mark(
    layers: Sequence[Layer],
    where: torch.device,
    folder: Path | None,
    *,
    preprocessing: Prepared | None,
    data: Sequence[str],
    batch: int,
    precisions: Sequence[Precision],
    shares: Sequence[tuple[int, int]],
    head: Sequence[str | int],
) -> str:
    """A digest of all that a calibration depends on: machine, library, network, data, `head`, and what could be chosen.

    Weights are no part of it: they take the same time whatever their values. `folder` stands for its disk.
    """
    parts = {
        "format": FORMAT,
        "machine": [platform.node(), _processor(), joblib.cpu_count(), _graphics(where), torch.__version__],
        "disk": None if folder is None else folder.stat().st_dev,
        "network": [(layer.name, layer.parameters, layer.macs, layer.bytes, layer.cut) for layer in layers],
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "data": data,
        "head": head,
        "choices": [str(where), batch, precisions, shares],
    }
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def recall(mark: str) -> Calibration | None:
    """What was measured under this mark; None where nothing was, or its file is damaged."""
    try:
        return TypeAdapter(Calibration).validate_json((_home() / f"{mark}.json").read_text("utf-8"))
    except (OSError, ValueError, ValidationError):
        return None


def keep(mark: str, found: Calibration) -> None:
    """Remember it; a cache folder that cannot be written to is no reason to stop."""
    with suppress(OSError, StoreError):
        _home().mkdir(parents=True, exist_ok=True)
        write_whole(_home() / f"{mark}.json", json.dumps(asdict(found)).encode(), durable=False)


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frostline" / "calibrations"


def _processor() -> str:
    """The processor's name: `platform.processor` has none on Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _graphics(where: torch.device) -> str:
    return torch.cuda.get_device_name(where) if where.type == "cuda" else ""
