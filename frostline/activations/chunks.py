"""How activations lie in a file: one chunk holds many examples, and is written whole or not at all.

The layout of a chunk of m rows: for each tensor of the frontier in turn, m rows in C order, little-endian, starting at
a multiple of 64 bytes. Where examples differ in length, rows lie one behind the other, each as long as it is. Shapes,
dtypes and the checksum of every chunk stand in `manifest.json` beside the chunks.
bfloat16 is kept as its upper 16 bits in uint16, because NumPy has no such dtype.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.errors import StoreError

CHUNK = 64 * 2**20  # bytes: large enough for sequential speed, small enough to lose little to an interruption
ALIGNMENT = 64  # bytes: a cache line, and every NumPy dtype
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of a frontier, for one example."""

    shape: tuple[int, ...]  # of one position, where it is ragged
    dtype: str  # one of DTYPES
    ragged: bool = False  # whether an example has as many positions as it is long, its first dimension

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise StoreError(f"activations of dtype {self.dtype} cannot be stored; allowed: {', '.join(DTYPES)}")

    @property
    def array(self) -> np.dtype[Any]:
        """The NumPy dtype that holds it."""
        return np.dtype("<u2") if self.dtype == "bfloat16" else np.dtype(self.dtype).newbyteorder("<")

    @property
    def bytes(self) -> int:
        """Of one example, or of one position of it."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.array.itemsize


def offsets(fields: Sequence[Field], rows: int, positions: int = 0) -> tuple[tuple[int, ...], int]:
    """Where each tensor of a chunk of so many rows begins, and the bytes of the whole chunk."""
    starts: list[int] = []
    end = 0
    for field in fields:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + field.bytes * (positions if field.ragged else rows)
    return tuple(starts), end


def views(
    buffer: NDArray[np.uint8], fields: Sequence[Field], rows: int, positions: int = 0
) -> tuple[NDArray[Any], ...]:
    """The tensors of a chunk, as arrays that share its memory; of ragged ones the positions of all rows."""
    starts, _ = offsets(fields, rows, positions)
    counts = [positions if field.ragged else rows for field in fields]
    return tuple(
        buffer[start : start + field.bytes * count].view(field.array).reshape(count, *field.shape)
        for field, start, count in zip(fields, starts, counts, strict=True)
    )


def rows_per_chunk(fields: Sequence[Field], rows: int, batch: int, *, length: float = 1.0) -> int:
    """Rows of a chunk: about 64 MB and at least eight chunks, so that an interrupted fill keeps most of its work.

    Always whole batches: a resumed fill then runs the very batches that the first one would have run, and ends at the
    same bytes. `length` is the mean number of positions of a row.
    """
    weight = max(1, round(sum(field.bytes * (length if field.ragged else 1) for field in fields)))
    wanted = max(1, min(CHUNK // weight, -(-rows // 8)))
    return max(1, wanted // batch) * batch


def encode(array: NDArray[Any], field: Field, out: NDArray[Any]) -> None:
    """Write rows in the dtype of the store. An array of uint16 is bfloat16: nothing else in the store has that dtype.

    Raises StoreError where a finite number would become infinite.
    """
    if array.dtype == np.uint16 and field.dtype != "bfloat16":
        array = from_bfloat16(array)
    elif array.dtype != np.uint16 and field.dtype == "bfloat16":
        array = to_bfloat16(array)
    with np.errstate(over="ignore"):
        np.copyto(out, array, casting="same_kind")
    if field.dtype == "float16" and not np.isfinite(out).all() and np.isfinite(array).all():
        raise StoreError(
            f"an activation of {np.abs(array).max():.3g} does not fit float16, whose largest number is 65504; "
            "store float32 or bfloat16 instead (--storage-precision)"
        )


def to_bfloat16(array: NDArray[Any]) -> NDArray[np.uint16]:
    """The upper 16 bits of float32, rounded to nearest, ties to even; not-a-number stays not-a-number."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def checksum(content: memoryview | bytes) -> str:
    """Against damage, not against malice: over four times as fast as BLAKE2, which the disk would wait for."""
    return f"{zlib.crc32(content):08x}"


def write_whole(path: Path, content: memoryview | bytes, *, durable: bool = True) -> None:
    """Put a file in place under its name only when all of it is written; `durable` waits until the disk has it.

    Raises StoreError naming the folder where the disk is full or cannot be written; nothing half-written stays.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{len(content)} bytes of activations cannot be written to {path.parent}: {error.strerror}; free some "
            "space there, choose another run directory, or lower the storage budget"
        ) from error


def _sync_folder(folder: Path) -> None:
    """A rename is safe from a power cut only when the folder that holds the name is on the disk too."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
