"""Laws of the store: what is read is what was written, whole or not at all, and never something stale."""

from __future__ import annotations

import copy
import json
import resource
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from frostline.activations.chunks import Field, from_bfloat16, rows_per_chunk, to_bfloat16
from frostline.activations.fingerprint import alike, fingerprint
from frostline.activations.store import Key, Store, Stored, address
from frostline.errors import CutError, StoreError
from frostline.values import Preprocessing

ROOM = 2**24
PREPROCESSING = Preprocessing(size=(8, 8), resize=None, mean=(0.5,), std=(0.5,))


def written(store: Store, arrays: list[NDArray[Any]], *, tier: Any = "disk", batch: int = 4) -> Stored:
    """Write arrays batch by batch, in their own dtypes."""
    fields = tuple(Field(array.shape[1:], array.dtype.name) for array in arrays)
    writing = store.begin(Key("a" * 24, 3), fields, len(arrays[0]), tier=tier, batch=batch)
    for first in range(0, len(arrays[0]), batch):
        writing.append([array[first : first + batch] for array in arrays])
    stored = store.held(Key("a" * 24, 3))
    assert stored is not None
    return stored


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """The operating system refuses longer files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 70),
    batch=st.integers(1, 9),
    tier=st.sampled_from(["disk", "memory"]),
    dtype=st.sampled_from(["float32", "float16", "float64", "int64", "bool", "uint8"]),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
)
def test_random_rows_are_what_was_written(rows: int, batch: int, tier: Any, dtype: str, picks: list[int]) -> None:
    rng = np.random.default_rng(rows)
    arrays = [(rng.standard_normal((rows, 3, 2)) * 3).astype(dtype), rng.standard_normal((rows, 5)).astype("float32")]
    wanted = np.array([pick % rows for pick in picks], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), disk=ROOM, memory=ROOM)
        stored = written(store, arrays, tier=tier, batch=batch)
        reader = Store(Path(folder), disk=ROOM) if tier == "disk" else store
        for array, found in zip(arrays, reader.read(stored, wanted), strict=True):
            np.testing.assert_array_equal(found, array[wanted])
            assert found.dtype == array.dtype


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=50),
    batch=st.integers(1, 9),
    tier=st.sampled_from(["disk", "memory"]),
    ended=st.integers(0, 50),
    picks=st.lists(st.integers(0, 10**6), max_size=30),
    more=st.integers(0, 3),
)
def test_rows_of_unequal_length_are_what_was_written_and_take_no_more_room(
    sizes: list[int], batch: int, tier: Any, ended: int, picks: list[int], more: int
) -> None:
    """Beside each of them lies a tensor that is alike long for all; writing is interrupted once, and goes on."""
    rng, rows, longest = np.random.default_rng(len(sizes)), len(sizes), max(sizes)
    long = rng.standard_normal((rows, longest, 2)).astype("float32")
    flat = rng.integers(0, 99, (rows, 3))
    fields = (Field((2,), "float32", ragged=True), Field((3,), "int64"))
    wanted = np.array([pick % rows for pick in picks], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), disk=ROOM, memory=ROOM)
        for last in (ended, rows):
            writing = store.begin(Key("a" * 24, 3), fields, rows, tier=tier, batch=batch, sizes=tuple(sizes))
            for first in range(writing.next, min(last, rows), batch):
                part = slice(first, first + batch)
                length = max(sizes[part])  # a batch is as long as its longest
                writing.append([long[part, :length], flat[part]])
        stored = store.held(Key("a" * 24, 3))
        assert stored is not None
        chunks = -(-rows // stored.chunk)
        assert 8 * sum(sizes) + 24 * rows <= stored.bytes <= 8 * sum(sizes) + 24 * rows + 64 * chunks
        reader = Store(Path(folder), disk=ROOM) if tier == "disk" else store
        for length in (None, longest + more):
            padded, alike_long = reader.read(stored, wanted, length=length)
            np.testing.assert_array_equal(alike_long, flat[wanted])
            most = max((sizes[row] for row in wanted), default=0) if length is None else length
            assert padded.shape == (len(wanted), most, 2)
            for row, found in zip(wanted, padded, strict=True):
                np.testing.assert_array_equal(found[: sizes[row]], long[row, : sizes[row]])
                assert not found[sizes[row] :].any()


def test_a_set_of_other_lengths_is_begun_anew() -> None:
    store, field = Store(None, memory=ROOM), (Field((2,), "float32", ragged=True),)
    for sizes in ((2, 1), (1, 2)):
        writing = store.begin(Key("a" * 24, 3), field, 2, tier="memory", sizes=sizes)
        assert writing.next == 0
        writing.append([np.ones((2, 2, 2), np.float32)])
        assert store.held(Key("a" * 24, 3)) is not None


def test_a_set_lies_in_at_least_eight_chunks_of_whole_batches_and_never_in_a_file_for_each_row(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=ROOM)
    stored = written(store, [np.zeros((640, 3), np.float32)], batch=8)
    assert stored.chunk == 80
    assert len(list(tmp_path.glob("*/*.bin"))) == 8
    assert rows_per_chunk((Field((2**20,), "float32"),), 10**6, 4) == 16
    assert rows_per_chunk((Field((3,), "float32"),), 100, 8) == 8


def test_store_refuses_a_chunk_with_a_wrong_checksum_and_names_the_file(tmp_path: Path) -> None:
    stored = written(Store(tmp_path, disk=ROOM), [np.arange(640, dtype=np.float32).reshape(64, 10)])
    file = next(tmp_path.glob("*/00003.bin"))
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    store = Store(tmp_path, disk=ROOM)
    healthy = store.read(stored, np.arange(stored.chunk))
    assert healthy[0].shape == (stored.chunk, 10)
    with pytest.raises(StoreError, match=r"00003\.bin.*delete the folder"):
        store.read(stored, np.array([3 * stored.chunk]))


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_chunk_that_was_cut_short_is_refused_and_named(tmp_path: Path, content: bytes) -> None:
    stored = written(Store(tmp_path, disk=ROOM), [np.ones((16, 10), np.float32)])
    next(tmp_path.glob("*/00000.bin")).write_bytes(content)
    with pytest.raises(StoreError, match=r"00000\.bin"):
        Store(tmp_path, disk=ROOM).read(stored, np.array([0]))


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    stored = written(Store(tmp_path, disk=ROOM), [np.ones((16, 10), np.float32)])
    next(tmp_path.glob("*/manifest.json")).write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json.*delete"):
        Store(tmp_path, disk=ROOM).held(stored.key)


@pytest.mark.parametrize("tier", ["disk", "memory"])
def test_what_does_not_fit_the_budget_is_refused_and_leaves_nothing(tmp_path: Path, tier: Any) -> None:
    store = Store(tmp_path, disk=1000, memory=1000)
    with pytest.raises(StoreError, match="do not fit: 1000 of 1000"):
        store.begin(Key("b", 1), (Field((300,), "float32"),), 1, tier=tier)
    assert list(tmp_path.iterdir()) == []
    store.begin(Key("b", 1), (Field((250,), "float32"),), 1, tier=tier)
    assert store.free(tier) == 0
    store.forget(Key("b", 1))
    assert store.free(tier) == 1000


def test_a_set_that_was_begun_counts_in_full_and_only_once(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=1000)
    for _ in range(2):
        store.begin(Key("b", 1), (Field((25,), "float32"),), 6, tier="disk")
        assert store.free("disk") == 1000 - 6 * 100
    with pytest.raises(StoreError, match="do not fit"):
        store.begin(Key("b", 2), (Field((25,), "float32"),), 6, tier="disk")


def test_a_full_disk_names_the_folder_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = Store(tmp_path, disk=ROOM)
    key, data = Key("c", 2), np.random.default_rng(0).standard_normal((16, 1000)).astype(np.float32)
    writing = store.begin(key, (Field((1000,), "float32"),), 16, tier="disk", batch=2)
    writing.append([data[:4]])
    with files_of_at_most(5000), pytest.raises(StoreError, match=f"{key.name}.*free some space"):
        writing.append([data[4:]])
    assert list(tmp_path.glob("*/*.tmp")) == []
    assert store.held(key) is None
    again = Store(tmp_path, disk=ROOM).begin(key, (Field((1000,), "float32"),), 16, tier="disk", batch=2)
    assert again.next == 4
    again.append([data[4:]])
    stored = store.held(key)
    assert stored is not None
    np.testing.assert_array_equal(store.read(stored, np.arange(16))[0], data)


def test_rows_that_are_not_there_are_refused() -> None:
    store = Store(None, memory=ROOM)
    stored = written(store, [np.ones((5, 2), np.float32)], tier="memory")
    for row in (-1, 5):
        with pytest.raises(StoreError, match=r"rows 0\.\.4 are stored"):
            store.read(stored, np.array([row]))


def test_a_store_without_a_folder_has_no_room_on_disk() -> None:
    with pytest.raises(StoreError, match="do not fit"):
        Store(None, disk=ROOM).begin(Key("b", 1), (Field((3,), "float32"),), 1, tier="disk")


def test_an_address_changes_with_each_thing_that_activations_are_computed_from() -> None:
    def of(weights: str = "w", ids: tuple[str, ...] = ("a", "b"), **changes: Any) -> str:
        rest: dict[str, Any] = {"preprocessing": PREPROCESSING, "size": (3, 8, 8), "dtype": "float32", "view": ""}
        return address(weights, ids, **(rest | changes))

    first = of()
    assert of() == first
    others = [
        of("v"),
        of(ids=("b", "a")),
        of(ids=("a", "b", "c")),
        of(preprocessing=replace(PREPROCESSING, interpolation="nearest")),
        of(size=(3, 9, 8)),
        of(dtype="float64"),
        of(view="flip 0 1"),
    ]
    assert len({first, *others}) == 8


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_bfloat16_is_rounded_as_torch_rounds_it(values: list[float]) -> None:
    array = np.array(values, np.float32)
    ours = from_bfloat16(to_bfloat16(array))
    np.testing.assert_array_equal(ours, torch.from_numpy(array).bfloat16().float().numpy())


def test_not_a_number_stays_so_in_bfloat16() -> None:
    assert np.isnan(from_bfloat16(to_bfloat16(np.array([np.nan], np.float32)))).all()


def test_float16_that_overflows_is_refused() -> None:
    store = Store(None, memory=ROOM)
    writing = store.begin(Key("b", 1), (Field((1,), "float16"),), 2, tier="memory", batch=2)
    with pytest.raises(StoreError, match="65504"):
        writing.append([np.array([[1.0], [1e5]], np.float32)])


def test_a_manifest_is_plain_json_without_paths(tmp_path: Path) -> None:
    written(Store(tmp_path, disk=ROOM), [np.ones((5, 2), np.float32)])
    text = next(tmp_path.glob("*/manifest.json")).read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["format"] == "frostline.activations/3"


def test_a_fingerprint_notices_every_parameter_and_buffer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    seen = {fingerprint(net)}
    for tensor in [*net.parameters(), *net.buffers()]:
        with torch.no_grad():
            tensor.view(-1)[0] += 1
        seen.add(fingerprint(net))
    assert len(seen) == 8
    below = fingerprint(net, ["0.weight"])
    with torch.no_grad():
        net.get_parameter("1.weight").add_(1)
    assert fingerprint(net, ["0.weight"]) == below


def test_a_fingerprint_of_an_unknown_name_is_an_error() -> None:
    with pytest.raises(CutError, match=r"0\.wight"):
        fingerprint(nn.Sequential(nn.Linear(2, 2)), ["0.wight"])


@settings(max_examples=40)
@given(st.integers(0, 3), st.sampled_from(["", "value", "sign of zero", "nan", "nan alike", "buffer", "layout"]))
def test_two_modules_are_alike_to_the_bit_where_their_fingerprints_are(seed: int, change: str) -> None:
    torch.manual_seed(seed)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = copy.deepcopy(one)
    with torch.no_grad():
        for module in (one, other) if change == "nan alike" else (other,):
            weight = module.get_parameter("0.weight")
            if change == "value":
                weight[0, 0, 0, 0] += 1e-6
            elif change.startswith("nan"):
                weight[1, 1, 1, 1] = torch.nan
            elif change == "buffer":
                module.get_buffer("1.num_batches_tracked").add_(1)
            elif change == "layout":
                module.to(memory_format=torch.channels_last)
        if change == "sign of zero":
            one.get_parameter("1.bias")[0], other.get_parameter("1.bias")[0] = 0.0, -0.0
    names = [*one.state_dict()]
    assert alike(one, other, names) == (fingerprint(one, names) == fingerprint(other, names))
    assert alike(one, other, names) == (change in ("", "nan alike", "layout"))
    assert alike(one, other, ["1.weight"])
