"""Activations kept in memory or on disk, addressed by what they were computed from.

    folder/
      3f0c..-d007-whole/     one set: an address, a depth, a kind
        manifest.json        shapes, dtypes, rows, and the checksum of every chunk that is whole
        00000.bin            rows 0..chunk-1; `chunks.py` says how they lie
        00001.bin

A set that was interrupted keeps the chunks it has. A set of other weights, examples or preprocessing has another
address, so it is never read by mistake.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import field as field_of
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frostline.activations.chunks import Field, checksum, encode, offsets, rows_per_chunk, views, write_whole
from frostline.errors import StoreError
from frostline.values import Prepared

FORMAT = "frostline.activations/3"  # part of every address: another layout never meets this one

Tier = Literal["memory", "disk"]
Kind = Literal["pooled", "whole"]


def address(
    weights: str,
    ids: Sequence[str],
    *,
    preprocessing: Prepared | None,
    size: tuple[int, ...],
    dtype: str,
    view: str,
) -> str:
    """What activations were computed from, as a short text; a change of any of it gives another address.

    `weights` is the `fingerprint` of the prefix, `ids` name the examples in the order of their rows, `size` is the
    shape of one input, `dtype` that of the computation, `view` what was drawn to vary the examples, or nothing.
    Give ids that change when the example does, a hash of its file for one: a name alone does not notice an edit.
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
    sizes: tuple[int, ...] | None = field_of(default=None, repr=False)  # positions of each row, where they differ

    @property
    def bytes(self) -> int:
        """Bytes of the whole set, padding between tensors included."""
        return sum(offsets(self.fields, *self.extent(number))[1] for number in range(-(-self.rows // self.chunk)))

    def extent(self, number: int) -> tuple[int, int]:
        """Rows and positions of a chunk."""
        first = number * self.chunk
        rows = min(self.chunk, self.rows - first)
        return rows, sum(self.sizes[first : first + rows]) if self.sizes is not None else 0


class Store:
    """Sets of activations under a budget of bytes; `folder` None keeps memory alone.

    What this process has verified is remembered, so that every chunk's checksum is computed once.
    """

    def __init__(self, folder: Path | None, *, disk: int = 0, memory: int = 0) -> None:
        self.folder = folder
        self._limit: dict[Tier, int] = {"disk": disk if folder is not None else 0, "memory": memory}
        self._memory: dict[Key, tuple[Stored, tuple[NDArray[Any], ...], int]] = {}  # set, arrays, rows that are there
        self._open: dict[tuple[Key, int], tuple[NDArray[Any], ...]] = {}  # chunks whose checksum was right
        self._starts: dict[Key, NDArray[np.int64]] = {}  # of unequal rows, the first position of each

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

    def begin(
        self,
        key: Key,
        fields: tuple[Field, ...],
        rows: int,
        *,
        tier: Tier,
        batch: int = 1,
        sizes: tuple[int, ...] | None = None,
    ) -> Writing:
        """Start a set, or go on with one that was interrupted.

        `batch` is how many rows will be appended at a time, `sizes` are the positions of each row where they differ.
        Raises StoreError where the set does not fit the budget.
        """
        stored, done = self.begun(key)
        if stored is not None and (stored.fields, stored.rows, stored.tier, stored.sizes) != (
            fields,
            rows,
            tier,
            sizes,
        ):
            self.forget(key)
            stored, done = None, 0
        if stored is None:
            length = 1.0 if sizes is None else sum(sizes) / max(1, len(sizes))
            stored = Stored(key, fields, rows, rows_per_chunk(fields, rows, batch, length=length), tier, sizes)
            if stored.bytes > self.free(tier):
                raise StoreError(
                    f"{stored.bytes} bytes of activations at depth {key.depth} do not fit: {max(0, self.free(tier))} "
                    f"of {self._limit[tier]} bytes are left in the store ({tier}); raise the storage budget or store "
                    "fewer depths"
                )
            self._reserve(stored)
        return Writing(self, stored, done)

    def read(self, stored: Stored, rows: NDArray[np.int64], *, length: int | None = None) -> tuple[NDArray[Any], ...]:
        """The rows asked for, in that order, one array for each tensor of the frontier; bfloat16 comes as uint16 bits.

        Rows of unequal length are filled with zeros up to `length` positions, or to the longest of them.
        Each number is copied once. Raises StoreError naming the file where a checksum is wrong.
        """
        if len(rows) and not 0 <= rows.min() <= rows.max() < stored.rows:
            raise StoreError(f"rows {rows.min()}..{rows.max()} were asked for; rows 0..{stored.rows - 1} are stored")
        if stored.sizes is not None:
            return self._read_ragged(stored, rows, length)
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

    def _read_ragged(self, stored: Stored, rows: NDArray[np.int64], length: int | None) -> tuple[NDArray[Any], ...]:
        starts = self._starts_of(stored)
        sizes = np.diff(starts)[rows]
        most = int(sizes.max(initial=0)) if length is None else length
        out = tuple(
            np.zeros((len(rows), *((most,) if field.ragged else ()), *field.shape), field.array)
            for field in stored.fields
        )
        for place, (row, size) in enumerate(zip(rows.tolist(), sizes.tolist(), strict=True)):
            number = row // stored.chunk
            begin = int(starts[row] - starts[number * stored.chunk])
            for source, target, field in zip(self._chunk(stored, number), out, stored.fields, strict=True):
                if field.ragged:
                    target[place, :size] = source[begin : begin + size]
                else:
                    target[place] = source[row - number * stored.chunk]
        return out

    def _starts_of(self, stored: Stored) -> NDArray[np.int64]:
        """At which position each row begins, and where the last one ends."""
        assert stored.sizes is not None, "only rows of unequal length begin anywhere"
        if stored.key not in self._starts:
            self._starts[stored.key] = np.concatenate([[0], np.cumsum(stored.sizes, dtype=np.int64)])
        return self._starts[stored.key]

    def forget(self, key: Key) -> None:
        """Remove a set, whole or not."""
        self._memory.pop(key, None)
        self._starts.pop(key, None)
        for opened in [name for name in self._open if name[0] == key]:
            del self._open[opened]
        if self.folder is not None:
            shutil.rmtree(self.folder / key.name, ignore_errors=True)

    def put(self, stored: Stored, number: int, content: NDArray[np.uint8]) -> None:
        """Keep one whole chunk. Chunks come in order; `Writing` sees to it."""
        size, positions = stored.extent(number)
        if stored.tier == "memory":
            _, arrays, done = self._memory[stored.key]
            begin = 0 if stored.sizes is None else int(self._starts_of(stored)[done])
            for source, target, field in zip(
                views(content, stored.fields, size, positions), arrays, stored.fields, strict=True
            ):
                first = begin if field.ragged else done
                target[first : first + len(source)] = source
            self._memory[stored.key] = (stored, arrays, done + size)
            return
        folder = self._place(stored.key)
        _, sums = self._manifest(folder)
        write_whole(folder / f"{number:05d}.bin", content.data)
        _write_manifest(folder, stored, (*sums[:number], checksum(content.data)))

    def _reserve(self, stored: Stored) -> None:
        if stored.tier == "memory":
            positions = 0 if stored.sizes is None else sum(stored.sizes)
            counts = [positions if field.ragged else stored.rows for field in stored.fields]
            arrays = tuple(
                np.empty((count, *field.shape), field.array) for field, count in zip(stored.fields, counts, strict=True)
            )
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
        first, (size, positions) = number * stored.chunk, stored.extent(number)
        if stored.tier == "memory":
            if stored.key not in self._memory:
                raise StoreError(f"{stored.key.name} was kept in the memory of another process; fill it again")
            _, arrays, _ = self._memory[stored.key]
            if stored.sizes is None:
                return tuple(array[first : first + size] for array in arrays)
            begin = int(self._starts_of(stored)[first])
            bounds = [(begin, positions) if field.ragged else (first, size) for field in stored.fields]
            return tuple(array[low : low + count] for array, (low, count) in zip(arrays, bounds, strict=True))
        if (stored.key, number) not in self._open:
            self._open[stored.key, number] = self._verified(stored, number)
        return self._open[stored.key, number]

    def _verified(self, stored: Stored, number: int) -> tuple[NDArray[Any], ...]:
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
            or len(content) != offsets(stored.fields, *stored.extent(number))[1]
            or checksum(content.data) != sums[number]
        ):
            raise StoreError(f"stored activations in {path} are not what was written (wrong checksum); {remedy}")
        return views(content, stored.fields, *stored.extent(number))

    def _manifest(self, folder: Path) -> tuple[Stored, tuple[str, ...]]:
        path = folder / "manifest.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            fields = tuple(Field(tuple(shape), dtype, ragged) for shape, dtype, ragged in found["fields"])
            key = Key(found["address"], found["depth"], found["kind"])
            sizes = None if found["sizes"] is None else tuple(found["sizes"])
            stored = Stored(key, fields, found["rows"], found["chunk"], "disk", sizes)
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
        "fields": [[list(field.shape), field.dtype, field.ragged] for field in stored.fields],
        "sizes": stored.sizes,
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
        self._position = 0  # positions in it
        self._rows, self._buffer, self._views = self._next()

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
            size = min(count - taken, self._rows - self._filled)
            for array, field, view in zip(arrays, self.stored.fields, self._views, strict=True):
                part = array[taken : taken + size]
                if field.ragged:
                    part, first = self._lined_up(part), self._position
                else:
                    first = self._filled
                encode(part, field, view[first : first + len(part)])
            if self.stored.sizes is not None:
                self._position += sum(self.stored.sizes[self.next : self.next + size])
            taken, self._filled = taken + size, self._filled + size
            if self._filled == self._rows:
                self._store.put(self.stored, self._kept // self.stored.chunk, self._buffer)
                self._kept, self._filled, self._position = self.next, 0, 0
                same = self.stored.sizes is None and min(self.stored.chunk, self.stored.rows - self._kept) == self._rows
                if not same:  # else the same buffer serves: all its rows come anew
                    self._rows, self._buffer, self._views = self._next()

    def _lined_up(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The positions of some rows one behind the other, without what they were filled up with."""
        assert self.stored.sizes is not None, "ragged rows have sizes"
        sizes = self.stored.sizes[self.next : self.next + len(rows)]
        return np.concatenate([row[:size] for row, size in zip(rows, sizes, strict=True)])

    def _next(self) -> tuple[int, NDArray[np.uint8], tuple[NDArray[Any], ...]]:
        rows, positions = self.stored.extent(self._kept // self.stored.chunk)
        rows = max(rows, 0)
        # zeros: the padding is part of the checksum
        buffer = np.zeros(offsets(self.stored.fields, rows, positions)[1], np.uint8)
        return rows, buffer, views(buffer, self.stored.fields, rows, positions)
