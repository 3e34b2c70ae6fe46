"""Activations kept in memory or on disk, addressed by what they were computed from.

    folder/
      3f0c..-d007-whole/     one set: an address, a depth, a kind
        manifest.json        shapes, dtypes, rows, and the checksum of every chunk that is whole
        00000.bin            rows 0..chunk-1; `chunks.py` says how they lie
        00001.bin

A set that was interrupted keeps the chunks it has. A set of other weights, pictures or preprocessing has another
address, so it is never read by mistake.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frostline.activations.chunks import Field, checksum, encode, offsets, rows_per_chunk, views, write_whole
from frostline.errors import StoreError
from frostline.values import Preprocessing

FORMAT = "frostline.activations/2"  # part of every address: another layout never meets this one

Tier = Literal["memory", "disk"]
Kind = Literal["pooled", "whole"]


def address(
    weights: str,
    ids: Sequence[str],
    *,
    preprocessing: Preprocessing | None,
    size: tuple[int, ...],
    dtype: str,
    view: str,
) -> str:
    """What activations were computed from, as a short text; a change of any of it gives another address.

    `weights` is the `fingerprint` of the prefix, `ids` name the examples in the order of their rows, `size` is the
    shape of one input, `dtype` that of the computation, `view` what was drawn to vary the examples, or nothing.
    Give ids that change when the picture does, a hash of its file for one: a name alone does not notice an edit.
    """
    parts = {
        "format": FORMAT,
        "weights": weights,
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "size": list(size),
        "dtype": dtype,
        "view": view,
        "ids": list(ids),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one set of activations."""

    address: str
    depth: int
    kind: Kind = "whole"

    @property
    def name(self) -> str:
        return f"{self.address}-d{self.depth:03d}-{self.kind}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A handle to a set; it is small, and another process that opens the same folder can use it."""

    key: Key
    fields: tuple[Field, ...]  # one for each tensor that crosses the cut
    rows: int
    chunk: int  # rows of each chunk but the last
    tier: Tier

    @property
    def bytes(self) -> int:
        """Bytes of the whole set, padding between tensors included."""
        sizes = (min(self.chunk, self.rows - first) for first in range(0, self.rows, self.chunk))
        return sum(offsets(self.fields, size)[1] for size in sizes)


class Store:
    """Sets of activations under a budget of bytes; `folder` None keeps memory alone.

    What this process has verified is remembered, so that every chunk's checksum is computed once.
    """

    def __init__(self, folder: Path | None, *, disk: int = 0, memory: int = 0) -> None:
        self.folder = folder
        self._limit: dict[Tier, int] = {"disk": disk if folder is not None else 0, "memory": memory}
        self._memory: dict[Key, tuple[Stored, tuple[NDArray[Any], ...], int]] = {}  # set, arrays, rows that are there
        self._open: dict[tuple[Key, int], tuple[NDArray[Any], ...]] = {}  # chunks whose checksum was right

    def free(self, tier: Tier) -> int:
        """Bytes that can still be written; sets that were begun count in full."""
        return self._limit[tier] - sum(stored.bytes for stored in self.sets() if stored.tier == tier)

    def sets(self) -> list[Stored]:
        """Every set that was ever begun."""
        return [*(stored for stored, _, _ in self._memory.values()), *(self._manifest(f)[0] for f in self._folders())]

    def held(self, key: Key) -> Stored | None:
        """The set if all of it is there."""
        stored, rows = self.begun(key)
        return stored if stored is not None and rows == stored.rows else None

    def begun(self, key: Key) -> tuple[Stored | None, int]:
        """The set if it was ever begun, and how many of its rows are there."""
        if key in self._memory:
            stored, _, rows = self._memory[key]
            return stored, rows
        if self.folder is None or not (self.folder / key.name / "manifest.json").exists():
            return None, 0
        stored, sums = self._manifest(self.folder / key.name)
        return stored, min(stored.rows, len(sums) * stored.chunk)

    def begin(self, key: Key, fields: tuple[Field, ...], rows: int, *, tier: Tier, batch: int = 1) -> Writing:
        """Start a set, or go on with one that was interrupted.

        `batch` is how many rows will be appended at a time. Raises StoreError where the set does not fit the budget.
        """
        stored, done = self.begun(key)
        if stored is not None and (stored.fields, stored.rows, stored.tier) != (fields, rows, tier):
            self.forget(key)
            stored, done = None, 0
        if stored is None:
            stored = Stored(key, fields, rows, rows_per_chunk(fields, rows, batch), tier)
            if stored.bytes > self.free(tier):
                raise StoreError(
                    f"{stored.bytes} bytes of activations at depth {key.depth} do not fit: {max(0, self.free(tier))} "
                    f"of {self._limit[tier]} bytes are left in the store ({tier}); raise the storage budget or store "
                    "fewer depths"
                )
            self._reserve(stored)
        return Writing(self, stored, done)

    def read(self, stored: Stored, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """The rows asked for, in that order, one array for each tensor of the frontier; bfloat16 comes as uint16 bits.

        Each number is copied once. Raises StoreError naming the file where a checksum is wrong.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < stored.rows:
            raise StoreError(f"rows {rows.min()}..{rows.max()} were asked for; rows 0..{stored.rows - 1} are stored")
        out = tuple(np.empty((len(rows), *field.shape), field.array) for field in stored.fields)
        chunks = rows // stored.chunk
        bounds = [0, *(np.flatnonzero(np.diff(chunks)) + 1), len(rows)]
        for first, last in pairwise(bounds):
            if first == last:
                continue
            number = int(chunks[first])
            local = rows[first:last] - number * stored.chunk
            for source, target in zip(self._chunk(stored, number), out, strict=True):
                # "clip" lets NumPy write straight into `target`; the bounds were checked above
                np.take(source, local, axis=0, out=target[first:last], mode="clip")
        return out

    def forget(self, key: Key) -> None:
        """Remove a set, whole or not."""
        self._memory.pop(key, None)
        for opened in [name for name in self._open if name[0] == key]:
            del self._open[opened]
        if self.folder is not None:
            shutil.rmtree(self.folder / key.name, ignore_errors=True)

    def put(self, stored: Stored, number: int, content: NDArray[np.uint8]) -> None:
        """Keep one whole chunk. Chunks come in order; `Writing` sees to it."""
        size = min(stored.chunk, stored.rows - number * stored.chunk)
        if stored.tier == "memory":
            _, arrays, done = self._memory[stored.key]
            for source, target in zip(views(content, stored.fields, size), arrays, strict=True):
                target[done : done + size] = source
            self._memory[stored.key] = (stored, arrays, done + size)
            return
        folder = self._place(stored.key)
        _, sums = self._manifest(folder)
        write_whole(folder / f"{number:05d}.bin", content.data)
        _write_manifest(folder, stored, (*sums[:number], checksum(content.data)))

    def _reserve(self, stored: Stored) -> None:
        if stored.tier == "memory":
            arrays = tuple(np.empty((stored.rows, *field.shape), field.array) for field in stored.fields)
            self._memory[stored.key] = (stored, arrays, 0)
            return
        folder = self._place(stored.key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {folder} for activations cannot be made: {error.strerror}; choose another run directory"
            ) from error
        _write_manifest(folder, stored, ())

    def _place(self, key: Key) -> Path:
        assert self.folder is not None, "a store without a folder has no room on disk"
        return self.folder / key.name

    def _folders(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        return [path.parent for path in sorted(self.folder.glob("*/manifest.json"))]

    def _chunk(self, stored: Stored, number: int) -> tuple[NDArray[Any], ...]:
        """The tensors of a chunk; a file is mapped, and its checksum verified the first time."""
        first = number * stored.chunk
        size = min(stored.chunk, stored.rows - first)
        if stored.tier == "memory":
            if stored.key not in self._memory:
                raise StoreError(f"{stored.key.name} was kept in the memory of another process; fill it again")
            _, arrays, _ = self._memory[stored.key]
            return tuple(array[first : first + size] for array in arrays)
        if (stored.key, number) not in self._open:
            self._open[stored.key, number] = self._verified(stored, number, size)
        return self._open[stored.key, number]

    def _verified(self, stored: Stored, number: int, size: int) -> tuple[NDArray[Any], ...]:
        folder = self._place(stored.key)
        path = folder / f"{number:05d}.bin"
        remedy = f"delete the folder {folder} and run again: it will be computed anew"
        _, sums = self._manifest(folder)
        try:
            content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise StoreError(f"stored activations in {path} cannot be read: {error}; {remedy}") from error
        if (
            number >= len(sums)
            or len(content) != offsets(stored.fields, size)[1]
            or checksum(content.data) != sums[number]
        ):
            raise StoreError(f"stored activations in {path} are not what was written (wrong checksum); {remedy}")
        return views(content, stored.fields, size)

    def _manifest(self, folder: Path) -> tuple[Stored, tuple[str, ...]]:
        path = folder / "manifest.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            fields = tuple(Field(tuple(shape), dtype) for shape, dtype in found["fields"])
            key = Key(found["address"], found["depth"], found["kind"])
            stored = Stored(key, fields, found["rows"], found["chunk"], "disk")
            return stored, tuple(found["checksums"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}); delete the folder {folder} and run again: it will be computed anew"
            ) from error


def _write_manifest(folder: Path, stored: Stored, sums: tuple[str, ...]) -> None:
    content = {
        "format": FORMAT,
        "address": stored.key.address,
        "depth": stored.key.depth,
        "kind": stored.key.kind,
        "rows": stored.rows,
        "chunk": stored.chunk,
        "fields": [[list(field.shape), field.dtype] for field in stored.fields],
        "checksums": list(sums),
    }
    # not waited for, as waiting takes longer than small chunks do: a power cut costs chunks or names a damaged manifest
    write_whole(folder / "manifest.json", json.dumps(content).encode(), durable=False)


class Writing:
    """A set while it is being written, row after row from `next` on."""

    def __init__(self, store: Store, stored: Stored, rows: int) -> None:
        self.stored = stored
        self._store = store
        self._kept = rows  # rows in whole chunks
        self._filled = 0  # rows in the chunk at hand
        self._buffer, self._views = self._next()

    @property
    def next(self) -> int:
        """The row that is to be appended next."""
        return self._kept + self._filled

    def append(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Add rows, one array for each tensor; a chunk is kept as soon as it is full.

        Raises StoreError where rows come that were not announced or the disk is full.
        """
        count, taken = len(arrays[0]), 0
        if self.next + count > self.stored.rows:
            raise StoreError(f"row {self.next + count - 1} was given; {self.stored.rows} rows were announced")
        while taken < count:
            size = min(count - taken, len(self._views[0]) - self._filled)
            for array, field, view in zip(arrays, self.stored.fields, self._views, strict=True):
                encode(array[taken : taken + size], field, view[self._filled : self._filled + size])
            taken, self._filled = taken + size, self._filled + size
            if self._filled == len(self._views[0]):
                self._store.put(self.stored, self._kept // self.stored.chunk, self._buffer)
                self._kept, self._filled = self.next, 0
                if min(self.stored.chunk, self.stored.rows - self._kept) != len(self._views[0]):
                    self._buffer, self._views = self._next()  # else the same buffer serves: all its rows come anew

    def _next(self) -> tuple[NDArray[np.uint8], tuple[NDArray[Any], ...]]:
        size = min(self.stored.chunk, self.stored.rows - self._kept)
        buffer = np.zeros(offsets(self.stored.fields, size)[1], np.uint8)  # zeros: the padding is part of the checksum
        return buffer, views(buffer, self.stored.fields, size)
