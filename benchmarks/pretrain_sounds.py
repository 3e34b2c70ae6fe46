"""A small speech network, pre-trained from nothing on spoken digits, and what its transfer gives on other voices.

    python benchmarks/pretrain_sounds.py ASSETS OUT [--kept] [--unmeasured] [--out FILE.md]

ASSETS holds `datasets/fsdd` (the Free Spoken Digit Dataset, 8 kHz, six speakers). The source task: which of the words
zero to five do four of the speakers say? The target task: all ten words, said by the other two, with five examples a
word and voice. So the source has neither the target's voices nor four of its words.

OUT/network holds a Wav2Vec2 for classification with its feature extractor, OUT/target/{train,test}/WORD/*.wav the
target as class folders. Then the target is learned in plain PyTorch: linear probes on the frozen layers, full
fine-tuning, and the same network from scratch, with as many epochs and with three times as many. `--kept` measures the
network that OUT has already. An arm is judged at its best rate in hindsight, each alike; every rate is in the table.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from told import machine, tell
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)
from transformers.utils import logging

RATE = 8000  # samples a second, as the recordings have
WINDOW = 8000  # samples a network reads: one second, longer than 99% of the recordings
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HEARD = WORDS[:6]  # of the source task
OTHERS = ("nicolas", "theo")  # the voices of the target task
WIDTH, BLOCKS = 96, 4
BATCH = 16
SEEDS, TUNING, RATES = (0, 1, 2), 20, (1e-3, 2e-3, 4e-3)  # of the target: its epochs and learning rates
ARMS = (("fine-tuning", False, TUNING), ("scratch", True, TUNING), ("scratch, longer", True, 3 * TUNING))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long, and the highest learning rate on the way."""

    epochs: int
    lr: float


SOURCE = Recipe(24, 1.5e-3)


@dataclass(frozen=True, slots=True)
class Recording:
    """One spoken digit; `number` counts those of one word by one speaker, 0..49."""

    path: Path
    word: str
    speaker: str
    number: int
    kept: bool  # in the data's own test part

    def wave(self) -> NDArray[np.float32]:
        """-1 to 1, as long as it was said."""
        rate, samples = wavfile.read(self.path)
        if rate != RATE:
            raise SystemExit(f"{self.path} has {rate} samples a second, not {RATE}; take fsdd as it was published")
        return samples.astype(np.float32) / np.float32(32768)


@dataclass(frozen=True, slots=True)
class Said:
    """What a task gives a network: recordings, and which class each is."""

    waves: Sequence[NDArray[np.float32]]
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Read:
    """The same, as the network reads it."""

    inputs: Tensor
    labels: Tensor


Reader = Callable[[Sequence[NDArray[np.float32]]], Tensor]


def recordings(assets: Path) -> list[Recording]:
    """All, by name: DIGIT_SPEAKER_NUMBER.wav."""
    found = []
    for path in sorted((assets / "datasets" / "fsdd").glob("*/*/*.wav"), key=lambda path: path.stem):
        digit, speaker, number = path.stem.split("_")
        found.append(Recording(path, WORDS[int(digit)], speaker, int(number), path.parts[-3] == "test"))
    if not found:
        raise SystemExit(f"{assets}/datasets/fsdd holds no PART/DIGIT/*.wav; name the folder that holds datasets/fsdd")
    return found


def said(chosen: Sequence[Recording], words: Sequence[str]) -> Said:
    """The samples of these, and each one's place among the words."""
    return Said([one.wave() for one in chosen], torch.tensor([words.index(one.word) for one in chosen]))


def network() -> Wav2Vec2ForSequenceClassification:
    """A Wav2Vec2 whose first convolutions see 2.5 ms and whose blocks see frames of 25 ms, for 8 kHz.

    Blocks normalise before they compute, which from random weights was learned sooner. No SpecAugment and no
    LayerDrop, so that training computes what evaluation does.
    """
    config = Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        intermediate_size=3 * WIDTH,
        conv_dim=(32, 48, 96),
        conv_kernel=(20, 10, 8),
        conv_stride=(8, 5, 5),
        feat_extract_norm="group",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        classifier_proj_size=WIDTH,
        vocab_size=4,
        id2label=dict(enumerate(HEARD)),
        label2id={word: at for at, word in enumerate(HEARD)},
    )
    return Wav2Vec2ForSequenceClassification(config)


def reader(folder: Path) -> Reader:
    """From samples to what the network reads, as the extractor of this folder says: cut or padded to the window.

    Without an attention mask: Wav2Vec2 with a group norm was made to see its padding.
    """
    extractor = AutoFeatureExtractor.from_pretrained(folder)

    def read(waves: Sequence[NDArray[np.float32]]) -> Tensor:
        window = {"padding": "max_length", "max_length": WINDOW, "truncation": True}
        return extractor(list(waves), sampling_rate=RATE, return_tensors="pt", **window).input_values

    return read


def varied(wave: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Said faster or slower (and so higher or lower), later, and through noise of -60 to -20 dB."""
    length = max(400, round(len(wave) / np.exp(rng.normal(0, 0.08))))
    wave = np.interp(np.linspace(0, len(wave) - 1, length), np.arange(len(wave)), wave)
    later = np.zeros(rng.integers(0, max(1, min(1500, WINDOW - length))))
    wave = np.concatenate([later, wave])
    return (wave + rng.normal(0, wave.std() * 10 ** rng.uniform(-3, -1), len(wave))).astype(np.float32)


def learn(
    module: nn.Module, inputs: Callable[[Tensor], Tensor], labels: Tensor, recipe: Recipe, seed: int
) -> Iterator[float]:
    """AdamW over one cycle, all weights; `inputs` gives what the rows of a batch hold. The mean loss of each epoch."""
    rng = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * -(-len(labels) // BATCH)
    optimiser = torch.optim.AdamW(module.parameters(), lr=recipe.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.lr, total_steps=steps, pct_start=0.2)
    for _ in range(recipe.epochs):
        module.train()
        total = 0.0
        for rows in torch.randperm(len(labels), generator=rng).split(BATCH):
            loss = functional.cross_entropy(module(inputs(rows)).logits, labels[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        yield total / len(labels)


def right(module: nn.Module, judge: Read) -> NDArray[np.float64]:
    """1 where the network names the class, else 0."""
    module.eval()
    with torch.inference_mode():
        named = torch.cat([module(part).logits.argmax(1) for part in judge.inputs.split(100)])
    return (named == judge.labels).double().numpy()


def pretrain(everything: Sequence[Recording], out: Path, seed: int) -> str:
    """Learn the source, write network and extractor; how well it went, in a line."""
    theirs = [one for one in everything if one.speaker not in OTHERS and one.word in HEARD]
    source, judge = (said([one for one in theirs if one.kept == kept], HEARD) for kept in (False, True))
    Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=False).save_pretrained(out)
    read, rng = reader(out), np.random.default_rng(seed)
    torch.manual_seed(seed)
    module = network()
    judged = Read(read(judge.waves), judge.labels)

    def drawn(rows: Tensor) -> Tensor:
        return read([varied(source.waves[row], rng) for row in rows.tolist()])

    started, busy = time.perf_counter(), time.process_time()
    for number, loss in enumerate(learn(module, drawn, source.labels, SOURCE, seed), 1):
        if number % 4 == 0:
            score = right(module, judged).mean()
            print(f"epoch {number}/{SOURCE.epochs}  loss {loss:.3f}  accuracy {score:.3f}", flush=True)
    module.save_pretrained(out)
    score = right(module, judged).mean()
    return (
        f"Source: {len(source.labels)} recordings of {len(HEARD)} words by 4 voices, {SOURCE.epochs} epochs in "
        f"{time.perf_counter() - started:.0f} s ({time.process_time() - busy:.0f} s of one core); "
        f"accuracy {score:.3f} on {len(judge.labels)} others."
    )


def split(everything: Sequence[Recording]) -> dict[str, list[Recording]]:
    """The target: of each word by each voice every tenth recording is labelled, the others judge."""
    theirs = [one for one in everything if one.speaker in OTHERS]
    return {part: [one for one in theirs if (one.number % 10 == 0) == (part == "train")] for part in ("train", "test")}


def lay_out(parts: dict[str, list[Recording]], out: Path) -> None:
    """PART/WORD/*.wav, whatever was there before gone."""
    shutil.rmtree(out, ignore_errors=True)
    for part, chosen in parts.items():
        for one in chosen:
            folder = out / part / one.word
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(one.path, folder / one.path.name)


def probes(module: nn.Module, train: Read, test: Read) -> list[float]:
    """Accuracy of logistic regression on the mean over time of what enters the first block and leaves each.

    Its penalty is chosen by five folds of the training examples.
    """
    module.eval()

    def means(inputs: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [module(part, output_hidden_states=True).hidden_states for part in inputs.split(100)]
        return np.stack([torch.cat([part.mean(1) for part in states]).numpy() for states in zip(*parts, strict=True)])

    scores = []
    for seen, judged in zip(means(train.inputs), means(test.inputs), strict=True):
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        search = GridSearchCV(line, {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]}, cv=5)
        scores.append(float(search.fit(seen, train.labels.numpy()).score(judged, test.labels.numpy())))
    return scores


def begun(folder: Path, seed: int, *, fresh: bool) -> nn.Module:
    """The network with a new classifier for the target's words; `fresh` begins all of it anew."""
    torch.manual_seed(seed)
    module = AutoModelForAudioClassification.from_pretrained(
        folder, num_labels=len(WORDS), id2label=dict(enumerate(WORDS)), ignore_mismatched_sizes=True
    )
    return type(module)(module.config) if fresh else module


def trained(module: nn.Module, train: Read, recipe: Recipe, seed: int) -> nn.Module:
    """The module, after all epochs."""
    for _ in learn(module, lambda rows: train.inputs[rows], train.labels, recipe, seed):
        pass
    return module


def raced(folder: Path, train: Read, test: Read) -> list[str]:
    """Fine-tuning and training from scratch, a row for each rate, and how far the best of one is above the other."""
    lines = ["| arm | epochs | rate | accuracy, mean over seeds | lowest | highest |", "|---|---|---|---|---|---|"]
    best = dict[str, NDArray[np.float64]]()
    for name, fresh, epochs in ARMS:
        for lr in RATES:
            modules = (trained(begun(folder, seed, fresh=fresh), train, Recipe(epochs, lr), seed) for seed in SEEDS)
            hits = np.stack([right(module, test) for module in modules])
            seeds = hits.mean(axis=1)
            lines.append(f"| {name} | {epochs} | {lr} | {hits.mean():.3f} | {seeds.min():.3f} | {seeds.max():.3f} |")
            print(lines[-1], flush=True)
            if name not in best or hits.mean() > best[name].mean():
                best[name] = hits.mean(axis=0)
    for name in ("scratch", "scratch, longer"):
        gain = best["fine-tuning"] - best[name]
        wide = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        lines += ["", f"Fine-tuning over {name}: {gain.mean():+.3f} +- {wide:.3f} (95%, over the test recordings)."]
    return lines


def measure(parts: dict[str, list[Recording]], folder: Path) -> list[str]:
    """The target, learned in every way."""
    read = reader(folder)
    train, test = (Read(read(part.waves), part.labels) for part in (said(parts[name], WORDS) for name in parts))
    lines = [f"Target: {len(train.labels)} labelled recordings, {len(test.labels)} to judge."]
    for name, fresh in (("pre-trained", False), ("random", True)):
        scores = ", ".join(f"{score:.3f}" for score in probes(begun(folder, 0, fresh=fresh), train, test))
        lines += ["", f"Linear probes before the blocks and after each, {name}: {scores}."]
        print(lines[-1], flush=True)
    return [*lines, "", *raced(folder, train, test)]


def main() -> None:
    """Pre-train, lay out, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("assets", type=Path, metavar="ASSETS")
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--kept", action="store_true", help="measure the network that OUT has already")
    parser.add_argument("--unmeasured", action="store_true", help="write network and target, and no more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)  # what solves the probes has threads of its own
    logging.set_verbosity_error()  # a classifier of another width is what is asked for
    logging.disable_progress_bar()
    everything = recordings(options.assets)
    parts = split(everything)
    lines = [f"Spoken digits on {machine()}, torch {torch.__version__}.", ""]
    if not options.kept:
        lines += [pretrain(everything, options.folder / "network", options.seed), ""]
        lay_out(parts, options.folder / "target")
    if not options.unmeasured:
        lines += measure(parts, options.folder / "network")
    tell(lines, options.out)


if __name__ == "__main__":
    main()
