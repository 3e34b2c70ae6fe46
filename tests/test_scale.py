"""More than fits into memory: what is stored, read and trained on is bounded by the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frostline.activations.chunks import Field
from frostline.activations.store import Key, Store

LIMITED = '''
"""Fills and trains with four times as many bytes of activations as this process may still take."""
import resource, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from frostline.activations.fill import Tapped, Wanted, fill
from frostline.activations.store import Store
from frostline.training.feed import feed

MEGABYTE, ROWS, WIDTH, LIMIT = 2**20, 4096, 16384, 64
torch.set_num_threads(1)
net = nn.Identity().eval()
head = nn.Linear(WIDTH, 2)
optimiser = torch.optim.SGD(head.parameters(), lr=1e-6)

def held():
    said = Path("/proc/self/status").read_text()
    return int(said.split("VmData:")[1].split()[0]) * 1024

def batches(start):
    for first in range(start, ROWS, 32):
        yield torch.arange(first, first + 32, dtype=torch.float32)[:, None].expand(32, WIDTH).contiguous()

def step(inputs, targets):
    loss = nn.functional.cross_entropy(head(inputs), targets)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

step(next(batches(0)), torch.zeros(32, dtype=torch.int64))  # what torch loads when it is first used is no activation
resource.setrlimit(resource.RLIMIT_DATA, (held() + LIMIT * MEGABYTE,) * 2)
store = Store(Path(sys.argv[1]), disk=300 * MEGABYTE)
tapped = Tapped(lambda batch: {1: (batch,)}, lambda depth, frontier: frontier[0][:, :4], net)
filled = fill(tapped, batches, store, Wanted({1: "x"}, ROWS, (1,), {1: "disk"}, 32))
stored = filled.whole[1]
assert stored.bytes >= 4 * LIMIT * MEGABYTE, stored.bytes
read = lambda rows, epoch: store.read(stored, rows)
learn = feed(read, np.arange(ROWS), np.arange(ROWS) % 2, 32, device=torch.device("cpu"), seed=0, waits=True)
for epoch in range(2):
    seen = 0
    for (inputs,), targets in learn(epoch):
        assert (inputs[:, 0] % 2 == targets).all()
        step(inputs, targets)
        seen += len(targets)
    assert seen == ROWS
try:
    np.ones(stored.bytes // 4, np.float32)
    print("the limit is none")
except MemoryError:
    print("within the limit")
'''


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA bounds what no file backs on Linux alone")
def test_activations_four_times_as_large_as_the_memory_that_is_left_are_stored_and_trained_on(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "within the limit\n", done.stderr[-2000:]


def test_a_million_small_samples_lie_in_a_few_files(tmp_path: Path) -> None:
    rows, width = 1_000_000, 8
    store = Store(tmp_path, disk=2 * rows * width * 4)
    writing = store.begin(Key("small", 1), (Field((width,), "float32"),), rows, tier="disk", batch=10_000)
    for start in range(0, rows, 10_000):
        writing.append([np.repeat(np.arange(start, start + 10_000, dtype=np.float32)[:, None], width, axis=1)])
    assert len(list(tmp_path.rglob("*"))) <= 12
    stored = Store(tmp_path).held(Key("small", 1))
    assert stored is not None
    picked = np.random.default_rng(0).integers(0, rows, 4096)
    (found,) = Store(tmp_path).read(stored, picked)
    np.testing.assert_array_equal(found, np.repeat(picked[:, None].astype(np.float32), width, axis=1))
