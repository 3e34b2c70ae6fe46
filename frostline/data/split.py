"""Who may see what: folds for the race, and a certification set that is read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frostline.data.together import linked
from frostline.errors import DataError, LabelError, OptionError
from frostline.values import VOID, Examples, Fold, Split, Targets, asked

Rows = NDArray[np.int64]
STRATA = 10  # of numbers
RARE = 10  # examples of a set of labels
Atom = tuple[int, ...]  # rows that stand on one side together


def split(
    examples: Examples,
    *,
    seed: int,
    folds: int = 3,
    certify: float = 0.2,
    least: int = 100,
    duplicates: Sequence[tuple[int, ...]] = (),
) -> Split:
    """Folds and certification set: stratified, seeded, and with groups and duplicates kept on one side.

    The user's test part is the certification set, the user's validation part the one fold; nobody learns from a shifted
    part or decides by it. Without a test part the share `certify` of what is no validation part is set aside where that
    is at least `least` examples, else nothing is. What is left makes `folds` folds, fewer where a class is too small to
    stand in each.
    `duplicates` are sets of row numbers that must not be torn apart.
    Raises LabelError where a class cannot stand on both sides, DataError where a group stands in several of the
    user's own parts.
    """
    if asked(examples.targets) != "classification":
        examples = replace(examples, targets=strata(examples.targets), classes=())
    if folds < 2 or not 0 <= certify < 1:
        raise OptionError(f"folds is {folds} and certify {certify}; at least 2 folds and a share below 1 are needed")
    parts = np.asarray(examples.parts)
    test, validation, shifted = (np.flatnonzero(parts == part) for part in ("test", "validation", "shifted"))
    rest = np.flatnonzero((parts == "") | (parts == "train"))
    _one_part_a_group(examples)
    atoms = atoms_of(examples, duplicates)
    rng = np.random.default_rng(seed)
    said = [f"the test part ({len(test)} {examples.kind}) certifies"] if len(test) else []
    if not len(test):
        test, rest, how = _set_aside(examples, _inside(atoms, rest), certify, least, 1 if len(validation) else 2, rng)
        said.append(how)
    if len(validation):
        _both_sides(examples, rest, [rest])
        made = (Fold(rest, validation),)
        said.append(f"the validation part ({len(validation)} {examples.kind}) is the one fold, {len(rest)} train")
    else:
        made = _folds(examples, _inside(atoms, rest), folds, rng)
        said.append(f"the other {len(rest)} make {len(made)} stratified folds")
    torn = sum(len(set(parts[list(atom)].tolist()) - {"", "train"}) > 0 and _torn(parts, atom) for atom in atoms)
    if torn:
        said.append(f"{torn} sets of duplicate {examples.kind} stand in several of the given parts and stay there")
    if len(shifted):
        said.append(f"the shifted part ({len(shifted)} {examples.kind}) is looked at and decides nothing")
    return Split(made, np.sort(test), "; ".join(said), shifted)


def strata(targets: Targets) -> Rows:
    """Class ids by which targets are dealt out evenly: sets of labels or of classes, or tenths of the first number.

    Sets of labels that are rarer than `RARE` are one stratum, by how many labels there are.
    """
    if asked(targets) == "regression":
        edges = np.unique(np.quantile(targets[:, 0], np.linspace(0, 1, STRATA + 1)[1:-1]))
        return np.searchsorted(edges, targets[:, 0], side="right").astype(np.int64)
    if asked(targets) == "detection":
        labels = targets[..., 4]
        present = [(labels == number).any(axis=1) for number in np.unique(labels[np.isfinite(labels)])]
        targets = np.stack(present, axis=1).astype(np.int64) if present else np.zeros((len(targets), 1), np.int64)
    if asked(targets) == "segmentation":
        classes = np.setdiff1d(np.unique(targets), [VOID])
        targets = np.stack([(targets == number).any(axis=(1, 2)) for number in classes], axis=1).astype(np.int64)
    _, sets, counts = np.unique(targets, axis=0, return_inverse=True, return_counts=True)
    found = sets.reshape(-1).astype(np.int64)
    rare = counts[found] < RARE
    found[rare] = len(counts) + targets.sum(axis=1)[rare]
    return np.unique(found, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _torn(parts: NDArray[np.str_], atom: Atom) -> bool:
    return len({part or "train" for part in parts[list(atom)].tolist()}) > 1


def atoms_of(examples: Examples, duplicates: Iterable[tuple[int, ...]]) -> list[Atom]:
    """The smallest sets of rows that may be dealt out: groups joined with the duplicates that link them."""
    first: dict[str, int] = {}  # row of each group; an empty cell is no group
    groups = [(first.setdefault(group, row), row) for row, group in enumerate(examples.groups or ()) if group]
    return linked(len(examples), groups + [(same[0], row) for same in duplicates for row in same[1:]])


def _inside(atoms: Iterable[Atom], rows: Rows) -> list[Atom]:
    """What of each atom lies within these rows."""
    allowed = set(rows.tolist())
    return [kept for atom in atoms if (kept := tuple(row for row in atom if row in allowed))]


def _one_part_a_group(examples: Examples) -> None:
    parts: dict[str, set[str]] = defaultdict(set)
    for group, part in zip(examples.groups or (), examples.parts, strict=False):
        parts[group].add(part or "train")
    torn = [group for group, its in parts.items() if group and len(its) > 1]
    if torn:
        raise DataError(
            f"{len(torn)} groups stand in several parts of the data, for example {torn[0]!r} in "
            f"{' and '.join(sorted(parts[torn[0]]))}; a group may stand in one; move its "
            f"{examples.kind} or drop the groups"
        )


def _set_aside(
    examples: Examples, atoms: list[Atom], share: float, least: int, needed: int, rng: np.random.Generator
) -> tuple[Rows, Rows, str]:
    """The certification rows, the others, and the sentence about it."""
    everyone = _rows(atoms)
    nothing = np.empty(0, np.int64)
    if round(share * len(everyone)) < least or share == 0:
        return (
            nothing,
            everyone,
            f"nothing is set aside ({share:.0%} of {len(everyone)} is less than {least} {examples.kind})",
        )
    place = deal(atoms, examples.targets, np.asarray([share, 1 - share]), rng)
    # a class that would be left with too few atoms to learn from takes its own back, the smallest first
    left = _atoms_a_class(examples, [atom for atom, side in zip(atoms, place, strict=True) if side == 1])
    for number in sorted(range(len(atoms)), key=lambda n: len(atoms[n])):
        classes = set(examples.targets[list(atoms[number])].tolist())
        if place[number] == 0 and any(left[name] < needed for name in classes):
            place[number] = 1
            left.update(classes)
    aside = _rows([atom for atom, side in zip(atoms, place, strict=True) if side == 0])
    if len(aside) < least:
        small = f"nothing is set aside (what groups allow, {len(aside)} {examples.kind}, is less than {least})"
        return nothing, everyone, small
    rest = np.setdiff1d(everyone, aside)
    return aside, rest, f"{len(aside)} of {len(everyone)} {examples.kind} are set aside and certify"


def _atoms_a_class(examples: Examples, atoms: Iterable[Atom]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for atom in atoms:
        counts.update(set(examples.targets[list(atom)].tolist()))
    return counts


def _rows(atoms: Iterable[Atom]) -> Rows:
    return np.asarray(sorted(row for atom in atoms for row in atom), np.int64)


def _folds(examples: Examples, atoms: list[Atom], folds: int, rng: np.random.Generator) -> tuple[Fold, ...]:
    rows = _rows(atoms)
    counts = _atoms_a_class(examples, atoms)
    smallest = min((counts[number] for number in range(len(examples.classes))), default=folds)
    # fewer folds before a fold without a class, but never fewer than two
    folds = max(2, min(folds, smallest))
    place = deal(atoms, examples.targets, np.full(folds, 1 / folds), rng)
    _spread(examples, atoms, place, folds)
    sides = [_rows([a for a, p in zip(atoms, place, strict=True) if p == fold]) for fold in range(folds)]
    made = tuple(Fold(np.setdiff1d(rows, side), side) for side in sides)
    _both_sides(examples, rows, [fold.train for fold in made])
    if not all(len(fold.validation) for fold in made):
        raise DataError(
            f"{len(rows)} {examples.kind} in {len(atoms)} groups cannot fill {folds} folds; more groups are needed, "
            f"each stands on one side; add {examples.kind} or drop the groups"
        )
    return made


def deal(atoms: Sequence[Atom], targets: Rows, shares: NDArray[np.float64], rng: np.random.Generator) -> Rows:
    """The side of each atom, so that every side has its share of every class.

    The largest go first, each to the side that lacks most of its classes, weighted by their rarity. For single rows
    each class ends less than one row away from its share on every side (the largest deficit is always served).
    """
    totals = np.bincount(targets[_rows(atoms)], minlength=int(targets.max()) + 1).astype(np.float64)
    lacking = shares[:, None] * totals[None, :]
    rarity = 1 / np.maximum(totals, 1)
    size = shares * totals.sum()
    place = np.zeros(len(atoms), np.int64)
    for number in sorted(rng.permutation(len(atoms)).tolist(), key=lambda n: -len(atoms[n])):
        classes, counts = np.unique(targets[list(atoms[number])], return_counts=True)
        gain = lacking[:, classes] @ (counts * rarity[classes])
        # sizes decide between sides that lack the classes equally; 1e-9 is far below any difference in gain
        side = int(np.argmax(np.round(gain, 9) + 1e-9 * size / max(totals.sum(), 1)))
        place[number] = side
        lacking[side, classes] -= counts
        size[side] -= counts.sum()
    return place


def _spread(examples: Examples, atoms: Sequence[Atom], place: Rows, folds: int) -> None:
    """Moves the smallest atom of a class whose atoms all fell into one fold: that class could not be learned."""
    for _ in examples.classes:
        where: dict[int, list[int]] = defaultdict(list)
        for number, atom in enumerate(atoms):
            for name in set(examples.targets[list(atom)].tolist()):
                where[name].append(number)
        stuck = [its for its in where.values() if len(its) > 1 and len({int(place[n]) for n in its}) == 1]
        if not stuck:
            return
        moved = min(stuck[0], key=lambda n: len(atoms[n]))
        place[moved] = (place[moved] + 1) % folds


def _both_sides(examples: Examples, rows: Rows, trains: Sequence[Rows]) -> None:
    """Raises LabelError naming the classes that some training side lacks."""
    wanted = np.arange(len(examples.classes))
    if not len(wanted):
        return
    absent = sorted({int(name) for train in trains for name in np.setdiff1d(wanted, examples.targets[train])})
    if absent:
        names = ", ".join(
            f"{examples.classes[name]!r} ({int(np.sum(examples.targets[rows] == name))} {examples.kind})"
            for name in absent[:5]
        )
        raise LabelError(
            f"the classes {names} cannot stand in training and in validation at once: too few of their "
            f"{examples.kind} are independent of each other (one group, or duplicates); add {examples.kind}, or split "
            "their groups"
        )
