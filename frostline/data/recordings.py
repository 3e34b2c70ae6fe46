"""One recording: opened whatever its file holds, as samples at the rate that a network reads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import DataError, OptionError
from frostline.values import Waves

Recording = Path | bytes
UNREADABLE = (OSError, ValueError, RuntimeError, TypeError)  # soundfile's own errors are runtime errors


def samples(recording: Recording) -> tuple[NDArray[np.float32], int]:
    """The samples of one channel between -1 and 1, and how many there are a second; several channels are averaged."""
    library, content = _library(), recording if isinstance(recording, bytes) else recording.read_bytes()
    with library.SoundFile(BytesIO(content)) as file:  # of a file that is not there the library says "System error"
        found = file.read(dtype="float32", always_2d=True)
        rate = int(file.samplerate)
    if len(found) == 0:
        raise ValueError("it holds no samples")
    return np.ascontiguousarray(found.mean(axis=1)), rate


def heard(recording: Recording) -> tuple[NDArray[np.float32], int]:
    """As `samples`. Raises DataError naming a recording that cannot be read."""
    try:
        return samples(recording)
    except UNREADABLE as error:
        name = "a recording stored in the data set" if isinstance(recording, bytes) else str(recording)
        raise DataError(
            f"{name} cannot be read as a recording: {explain(error)}; WAV, FLAC, OGG and MP3 are allowed; replace or "
            "remove the file"
        ) from error


def opened(given: Sequence[Any], how: Waves, *, workers: int = 0) -> list[NDArray[np.float32]]:
    """Each recording at the rate of `how`, cut to its length. Raises DataError naming one that cannot be read."""

    def one(recording: Recording) -> NDArray[np.float32]:
        return resampled(*heard(recording), how.rate)[: round(how.seconds * how.rate)]

    if workers < 2 or len(given) < 2:
        return [one(recording) for recording in given]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, given))


def resampled(given: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """The same sound at another rate, through a filter that lets nothing alias."""
    if rate == wanted:
        return given
    from scipy.signal import resample_poly

    common = gcd(rate, wanted)
    return np.asarray(resample_poly(given, wanted // common, rate // common), np.float32)


def milliseconds(recording: Recording) -> tuple[int, ...]:
    """How long it is, from the head of the file alone."""
    found = _library().info(BytesIO(recording) if isinstance(recording, bytes) else str(recording))
    return (round(1000 * found.frames / found.samplerate),)


def explain(error: Exception) -> str:
    """The cause in a reader's words."""
    if isinstance(error, FileNotFoundError):
        return "the file does not exist"
    said = getattr(error, "error_string", None) or str(error)  # soundfile's own, without where in memory it lies
    return said.splitlines()[0] if said else type(error).__name__


def _library() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # an OSError where libsndfile itself is missing
        raise OptionError(f"recordings need the library soundfile ({error}): pip install 'frostline[audio]'") from None
    return soundfile
