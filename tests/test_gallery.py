"""The report shows the model's mistakes and some of what it got right: which, how large, and nothing besides."""

from __future__ import annotations

import io
import json
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks_of import RATE, sound
from numpy.typing import NDArray
from PIL import Image
from test_report import EVIL, Page, build
from world import Said, refused, tell

from frostline import journey
from frostline.data import showing
from frostline.data.kinds import KINDS
from frostline.errors import DataError, OptionError
from frostline.formats.drawn import compared
from frostline.formats.model import SHOWN
from frostline.report import gallery as told
from frostline.report import page
from frostline.report.gallery import Gallery, fewer, outline
from frostline.run.gallery import gallery
from frostline.run.judged import Judged, confusion, counted, judged, points, seen, tallies
from frostline.settings import Settings
from frostline.values import Examples, Kind, Outcome, Unit

Run = tuple[Path, Said]
CLASSES = ("ant", "bee", "cat")


def answers(targets: Any, predictions: Any, rows: NDArray[np.int64] | None = None) -> Judged:
    found = np.asarray(predictions, np.float32)
    return Judged(np.arange(len(found)) if rows is None else rows, found, np.asarray(targets), CLASSES)


def classes(seed: int, count: int) -> Judged:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3))
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return answers(rng.integers(0, 3, count), logs)


def uri_bytes(uri: str) -> bytes:
    return b64decode(uri.partition(",")[2])


# ------------------------------------------------------------------------------------------------ which are shown


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_mistakes_are_those_of_the_predictions_the_surest_first_and_the_others_are_the_rest(
    seed: int, count: int
) -> None:
    found = classes(seed, count)
    picked = seen(found)
    said = found.predictions.argmax(axis=1)
    assert sorted(picked.worst.tolist()) == [n for n in range(count) if said[n] != found.targets[n]]
    assert sorted([*picked.worst.tolist(), *picked.others.tolist()]) == list(range(count))
    sure = found.predictions[picked.worst].max(axis=1)
    assert (np.diff(sure) <= 0).all()


@given(st.integers(0, 10_000))
def test_right_ones_come_from_every_class_before_any_class_comes_again(seed: int) -> None:
    found = classes(seed, 50)
    right = found.targets[seen(found).others].tolist()
    kinds = len(set(right))
    assert len(set(right[:kinds])) == kinds


@given(st.integers(0, 10_000))
def test_of_labels_a_mistake_is_any_other_set_than_the_true_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, there = rng.normal(0, 2, (40, 3)), rng.integers(0, 2, (40, 3))
    picked = seen(answers(there, logits))
    off = [n for n in range(40) if set(np.flatnonzero(logits[n] > 0)) != set(np.flatnonzero(there[n]))]
    assert sorted(picked.worst.tolist()) == off
    surest = [max(abs(logits[n, c]) for c in range(3) if (logits[n, c] > 0) != there[n, c]) for n in picked.worst]
    assert surest == sorted(surest, reverse=True)


def test_what_is_said_of_labels_names_the_missed_ones() -> None:
    picked = seen(answers([[1, 1, 0]], [[3.0, -2.0, 1.0]]))
    assert picked.true(0) == "ant and bee"
    assert picked.said(0) == "ant (95%), cat (73%) and not bee"


def test_of_numbers_the_largest_error_comes_first_in_units_of_what_each_spreads_by() -> None:
    true = np.array([[0.0, 0.0], [1.0, 1000.0], [2.0, 2000.0], [3.0, 3000.0]])
    said = true + np.array([[0.0, 10.0], [1.5, 0.0], [0.0, 700.0], [0.1, 0.0]])
    picked = seen(Judged(np.arange(4), said.astype(np.float32), true, ("metres", "grams")))
    assert picked.worst.tolist() == [1, 2, 3, 0]
    assert picked.others[0] == 3  # the middle one by error
    assert (picked.true(2), picked.said(2)) == ("metres 2 and grams 2,000", "metres 2 and grams 2,700")


BOX = (0.1, 0.1, 0.5, 0.5)
AWAY = (0.6, 0.6, 0.9, 0.9)


def boxed(there: list[list[tuple[Any, int]]], found: list[list[tuple[Any, float, int]]]) -> Judged:
    targets, predictions = np.full((len(there), 3, 5), np.nan), np.full((len(there), 4, 6), np.nan)
    for row, boxes in enumerate(there):
        for place, (corners, label) in enumerate(boxes):
            targets[row, place] = (*corners, label)
    for row, detections in enumerate(found):
        for place, (corners, score, label) in enumerate(detections):
            predictions[row, place] = (*corners, score, label)
    return answers(targets.astype(np.float32), predictions)


SCENES = boxed(
    [[(BOX, 0)], [(BOX, 0)], [(BOX, 0), (AWAY, 1)], [(BOX, 0)], []],
    [
        [(BOX, 0.9, 0)],  # right
        [(BOX, 0.9, 0), (AWAY, 0.8, 2)],  # one too many
        [(BOX, SHOWN - 0.01, 0)],  # both missed: what is too weak to be told of is not found
        [(BOX, 0.9, 1)],  # found as another class: one missed, one too many
        [],  # right: nothing is there
    ],
)


def test_a_box_is_missed_found_or_too_many_and_misses_come_first() -> None:
    there, hit, missed, more = counted(SCENES)
    assert there.sum(axis=1).tolist() == [1, 1, 2, 1, 0]
    assert hit.sum(axis=1).tolist() == [1, 1, 0, 0, 0]
    assert missed.sum(axis=1).tolist() == [0, 0, 2, 1, 0]
    assert more.sum(axis=1).tolist() == [0, 1, 0, 1, 0]
    picked = seen(SCENES)
    assert picked.worst.tolist() == [2, 3, 1]
    assert sorted(picked.others.tolist()) == [0, 4]
    assert (picked.true(3), picked.said(3)) == ("1 ant", "missed: 1 ant; too many: 1 bee")
    assert (picked.true(4), picked.said(4)) == ("none", "none")


def test_tallies_add_up_and_confusion_and_points_hold_every_judged_example() -> None:
    rows = {row.name: row for row in tallies(SCENES)}
    assert (rows["ant"].there, rows["ant"].found, rows["ant"].missed, rows["ant"].more) == (4, 2, 2, 0)
    assert (rows["bee"].recall, rows["cat"].recall, rows["cat"].precision) == (0.0, None, 0.0)
    labels = tallies(answers([[1, 0, 1], [0, 0, 1]], [[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]))
    assert [(row.there, row.found, row.missed, row.more) for row in labels] == [
        (1, 1, 0, 0),
        (0, 0, 0, 1),
        (2, 1, 1, 0),
    ]
    found = classes(3, 40)
    table = confusion(found)
    assert table is not None and table.sum() == 40
    assert table.sum() - np.trace(table) == len(seen(found).worst)
    assert tallies(found) == () and points(found) == {} and confusion(SCENES) is None
    numbers = Judged(np.arange(900), np.zeros((900, 1), np.float32), np.arange(900.0)[:, None], ("age",))
    (drawn,) = points(numbers).values()
    assert len(drawn.true) == 400 and (drawn.true[0], drawn.true[-1]) == (0.0, 899.0)


def test_rows_that_several_trainings_predicted_count_once_by_the_first_of_their_fold() -> None:
    examples = pictures(6)
    logs = np.log(np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]] * 0.98 + 0.01)

    def outcome(fold: int, seed: int, rows: list[int], shift: int) -> Outcome:
        return Outcome(Unit("a", 0.1, 3, fold, seed, 2), np.array(rows), np.roll(logs[rows], shift, axis=1), 1.0, 1)

    found = judged([outcome(0, 0, [5, 1], 0), outcome(0, 1, [5, 1], 1), outcome(1, 0, [3], 0)], examples)
    assert found.rows.tolist() == [1, 3, 5]
    assert np.array_equal(found.predictions, logs[[1, 3, 5]])


# ------------------------------------------------------------------------------------------------ how they are shown


def pictures(count: int, size: tuple[int, int] = (40, 60)) -> Examples:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *size, 3)).astype(np.uint8)
    names = tuple(f"row-{n}" for n in range(count))
    return Examples(names, pixels, np.arange(count) % 3, CLASSES, ("",) * count, None)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 48), (200, 3000), (900, 700)])
def test_a_small_picture_keeps_its_proportions_within_its_side_and_its_bytes(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)  # noise: nothing is larger
    content = uri_bytes(showing.small(Image.fromarray(pixels)))
    assert len(content) <= showing.BYTES
    with Image.open(io.BytesIO(content)) as image:
        assert max(image.size) <= showing.SIDE
        assert image.width / image.height == pytest.approx(size[1] / size[0], rel=0.15)
        if max(size) <= 8:
            assert np.array_equal(np.asarray(image), pixels)


@given(st.text(), st.integers(2, 40))
def test_a_shortened_text_is_no_longer_than_allowed_and_begins_as_the_text_does(text: str, letters: int) -> None:
    shown, plain = showing.shortened(text, letters), " ".join(text.split())
    assert len(shown) <= letters
    assert plain.startswith(shown.removesuffix("…"))
    assert shown == plain or shown.endswith("…")


def items(kind: Kind, folder: Path) -> list[Any]:
    """One of each form in which an example of a kind may come."""
    rng = np.random.default_rng(0)
    if kind == "texts":
        return ["A story about nothing.", ("A premise.", "A hypothesis.")]
    if kind == "pictures":
        pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "one.png")
        return [folder / "one.png", (folder / "one.png").read_bytes(), pixels]
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(folder / "one.wav", sound("high", rng), RATE)
    return [folder / "one.wav", (folder / "one.wav").read_bytes()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_its_examples_with_their_size_whatever_form_they_come_in(kind: Kind, tmp_path: Path) -> None:
    for item in items(kind, tmp_path):
        shown = KINDS[kind].show(item)
        assert shown.size == KINDS[kind].size(item)
        assert [bool(shown.picture), bool(shown.texts), bool(shown.wave)] == [kind == name for name in KINDS]
        assert all(0 <= level <= 1 for level in shown.wave)


@pytest.mark.parametrize("kind", ["pictures", "recordings"])
def test_what_is_gone_cannot_be_shown_and_is_named(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.bin"):
        KINDS[kind].show(tmp_path / "gone.bin")


def test_boxes_that_are_there_are_dashed_over_those_that_were_found() -> None:
    plain = Image.new("RGB", (320, 240), (90, 90, 90))
    box, colours = (40.0, 40.0, 200.0, 160.0), {"ant": "#d9480f"}

    def line(there: list[Any], found: list[Any]) -> set[tuple[int, int, int]]:
        drawn = np.asarray(compared(plain, there, found, colours))
        return {tuple(map(int, pixel)) for pixel in drawn[38:42, 60:180].reshape(-1, 3)} - {(90, 90, 90)}

    ember, white = (0xD9, 0x48, 0x0F), (255, 255, 255)
    assert line([], [("ant", box)]) == {ember}
    assert line([("ant", box)], []) == {ember, white}
    solid = np.asarray(compared(plain, [], [("ant", box)], colours)) != 90
    both = np.asarray(compared(plain, [("ant", box)], [("ant", box)], colours)) != 90
    assert (both >= solid).all() and white in line([("ant", box)], [("ant", box)])
    assert plain.getextrema() == ((90, 90),) * 3


# ------------------------------------------------------------------------------------------------ the gallery


def of(found: Judged, examples: Examples, most: int = 24) -> Gallery:
    shown = gallery(found, examples, most, held_out=True)
    assert shown is not None
    return shown


@pytest.mark.parametrize("most", [1, 2, 5, 24, 200])
def test_a_gallery_holds_judged_examples_alone_each_once_and_no_more_than_were_asked_for(most: int) -> None:
    examples, rows = pictures(60), np.arange(10, 50)
    shown = of(replace(classes(1, 40), rows=rows), examples, most)
    names = [entry.id for entry in (*shown.worst, *shown.others)]
    assert len(names) <= most and len(set(names)) == len(names)
    assert set(names) <= {examples.ids[row] for row in rows}
    assert len(shown.worst) == min(shown.wrong, -(-2 * most // 3))
    assert gallery(classes(1, 40), examples, 0, held_out=True) is None
    assert fewer(shown, 0) is None and fewer(None, 3) is None
    less = fewer(shown, 3)
    assert less is not None and (less.worst, less.others) == (shown.worst[:2], shown.others[:1])


def test_all_pictures_of_a_page_take_300_kilobytes_at_most() -> None:
    shown = of(classes(1, 40), pictures(40, (300, 500)))
    assert sum(len(entry.shown.picture) for entry in (*shown.worst, *shown.others)) <= 300_000


def test_an_example_that_is_gone_is_told_without_its_picture(tmp_path: Path) -> None:
    gone = tuple(tmp_path / f"{n}.png" for n in range(9))
    examples = replace(pictures(9), inputs=gone)
    shown = of(classes(1, 9), examples)
    assert all(entry.id and entry.shown.size == () for entry in shown.worst)
    assert "could not be opened any more" in Page(page.render(replace(build(), gallery=shown))).text


def texts(count: int) -> Examples:
    written = tuple(EVIL[n % 4] if n % 2 else (EVIL[0], f"{EVIL[1]} {n}") for n in range(count))
    names = tuple(f"{EVIL[1]} {n}" for n in range(count))
    return Examples(names, written, np.arange(count) % 3, CLASSES, ("",) * count, None, kind="texts")


def test_texts_of_users_stay_text_in_the_gallery_and_pairs_are_two() -> None:
    shown = of(classes(1, 12), texts(12))
    markup = page.render(replace(build(EVIL), gallery=shown))
    seen_page = Page(markup)
    assert "<script" not in markup and "<img" not in markup
    assert EVIL[0] in seen_page.text
    quotes = sum(tag == "blockquote" for tag, _ in seen_page.tags)
    assert quotes == sum(len(entry.shown.texts) for entry in (*shown.worst, *shown.others))


def test_pictures_of_the_gallery_lie_in_the_page_and_say_what_they_are() -> None:
    shown = of(classes(1, 12), pictures(12))
    report = replace(build(), gallery=shown)
    seen_page = Page(page.render(report))
    images = [attributes for tag, attributes in seen_page.tags if tag == "img"]
    assert [image["src"] for image in images] == [e.shown.picture for e in (*shown.worst, *shown.others)]
    assert all((image["src"] or "").startswith("data:image/") for image in images)
    for entry, image in zip(shown.worst, images, strict=False):
        assert image["alt"] == f"picture {entry.id}: true {entry.true}, predicted {entry.said}"
        assert entry.id in seen_page.text and entry.said in seen_page.text
    policy = next(a["content"] for tag, a in seen_page.tags if tag == "meta" and "http-equiv" in a)
    assert "img-src data:" in (policy or "")
    assert page.render(report) == page.render(report)


def test_a_page_without_a_gallery_says_so_and_one_without_mistakes_has_no_empty_heading() -> None:
    assert "None are shown" in Page(page.render(build())).text
    perfect = answers(np.arange(6) % 3, np.log(np.eye(3)[np.arange(6) % 3] * 0.9 + 0.03))
    text = Page(page.render(replace(build(), gallery=of(perfect, pictures(6))))).text
    assert "none are put into a wrong class" in text
    assert told.HEADINGS["classification"][0] not in text


def test_a_silent_recording_is_a_flat_line() -> None:
    assert outline(replace(showing.text("x"), wave=(0.0, 0.0))) == "0,12.0 1,12.0 1,12.0 0,12.0"


@pytest.mark.parametrize("count", [-1, 201])
def test_a_gallery_of_no_sensible_size_is_refused(count: int) -> None:
    with pytest.raises(OptionError, match=f"gallery is {count}"):
        Settings("data", "net", gallery=count)


# ------------------------------------------------------------------------------------------------ of whole runs


def kept(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())


def test_a_run_shows_held_out_examples_alone_and_as_many_mistakes_as_its_confusion_counts(held_out: Run) -> None:
    found = kept(held_out[0])
    names = [entry["id"] for group in ("worst", "others") for entry in found["gallery"][group]]
    assert names and all(name.startswith("test/") for name in names)
    table = np.asarray(found["confusion"])
    assert found["gallery"]["judged"] == table.sum() == 36
    assert found["gallery"]["wrong"] == table.sum() - np.trace(table)
    for entry in found["gallery"]["worst"]:
        assert entry["true"] == entry["id"].split("/")[1] and not entry["said"].startswith(entry["true"])
    markup = (held_out[0] / "report.html").read_text()
    assert markup.count("<img") == len(names)


def test_a_report_is_made_anew_without_examples_where_none_are_wanted_or_the_run_kept_none(
    held_out: Run, tmp_path: Path
) -> None:
    run = shutil.copytree(held_out[0], tmp_path / "run", ignore=shutil.ignore_patterns("activations", "outcomes"))
    assert tell("report", run, "--gallery", 0).code == 0
    assert "<img" not in (run / "report.html").read_text()
    refused(tell("report", run, "--gallery", -1), "gallery is -1")
    assert tell("report", run).code == 0
    assert (run / "report.html").read_text() == (held_out[0] / "report.html").read_text()
    old = {name: value for name, value in kept(run).items() if name not in ("gallery", "tallies", "points")}
    (run / "report.json").write_text(json.dumps(old))
    journey.report(run)
    assert "None are shown" in Page((run / "report.html").read_text()).text


def test_a_verb_without_a_report_has_no_use_for_a_gallery(place: Path) -> None:
    for verb in ("train", "probe"):
        refused(tell(verb, place / "data", "--gallery", 3), "--gallery")
