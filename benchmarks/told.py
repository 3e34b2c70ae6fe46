"""How a benchmark says on what it ran, and what it found."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path


def machine() -> str:
    """The processor, as far as the system says."""
    return f"{os.cpu_count()} cores ({platform.processor() or platform.machine()})"


def tell(lines: Sequence[str], out: Path | None) -> None:
    """Print, and write where that was asked for."""
    text = "\n".join(lines) + "\n"
    print(text)
    if out:
        out.write_text(text)
