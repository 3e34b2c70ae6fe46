"""The weights that come with the package: they load, they are small, and they help on another task."""

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from torch import Tensor, nn
from torch.nn import functional

from frostline.demo.network import LETTERS, WEIGHTS, glyphs


def pretrained() -> nn.Module:
    network = glyphs()
    network.load_state_dict(load_file(WEIGHTS), strict=True)
    return network.eval()


def digits() -> tuple[Tensor, np.ndarray]:
    """The demo's pictures as the network reads them: 8 x 8 counts of ink, enlarged and normalised."""
    data = load_digits()
    pictures = torch.tensor(data.images / 16, dtype=torch.float32)[:, None]
    return (functional.interpolate(pictures, size=(16, 16), mode="bilinear") - 0.3) / 0.3, data.target


def probe_accuracy(network: nn.Module, inputs: Tensor, targets: np.ndarray) -> float:
    """A ridge probe on the last block's pooled features: 300 examples to learn from, 600 others to judge."""
    rows = np.random.default_rng(0).permutation(len(targets))[:900]
    with torch.inference_mode():
        features = network.blocks(network.stem(inputs[rows])).mean(dim=(2, 3)).numpy()
    features = (features - features[:300].mean(axis=0)) / (features[:300].std(axis=0) + 1e-6)
    probe = RidgeClassifier(alpha=1.0).fit(features[:300], targets[rows[:300]])
    return float(probe.score(features[300:], targets[rows[300:]]))


def test_shipped_weights_fit_the_network_and_stay_below_a_megabyte() -> None:
    assert WEIGHTS.suffix == ".safetensors"
    assert WEIGHTS.stat().st_size <= 1_000_000
    assert pretrained()(torch.zeros(3, 1, 16, 16)).shape == (3, len(LETTERS))


def test_shipped_weights_are_finite_and_no_batch_norm_is_fresh() -> None:
    for name, tensor in load_file(WEIGHTS).items():
        assert torch.isfinite(tensor).all(), name
        if name.endswith("num_batches_tracked"):
            assert tensor > 100, name


def test_a_probe_on_letters_reads_digits_far_better_than_one_on_random_weights() -> None:
    inputs, targets = digits()
    torch.manual_seed(0)
    fresh = glyphs()
    with torch.no_grad():  # its batch norms see the digits, so that random weights get a fair chance
        for _ in range(30):
            fresh(inputs[:300])
    transferred = probe_accuracy(pretrained(), inputs, targets)
    random = probe_accuracy(fresh.eval(), inputs, targets)
    assert transferred > 0.93
    assert transferred > random + 0.1
