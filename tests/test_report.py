"""The report says what the summary says, loads nothing, and lets no name of a user become markup."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from frostline.report import facts, figures, glossary, page, snippet, tables, text, words
from frostline.report.facts import Report
from frostline.report.gallery import Entry, Gallery
from frostline.report.places import clear_place, crossed
from frostline.report.svg import embed
from frostline.values import Arm, Cut, Epoch, Estimate, Evidence, Layer, Plan, Profile, Recipe, Shown

EVIL = "<script>alert(1)</script>", "</svg><img src=x onerror=alert(2)>", "$\\frac{1}", "日本 & 'ñ' \""


def network(depth: int = 4) -> tuple[Layer, ...]:
    names = ["stem", *(f"blocks.{i}" for i in range(depth - 1))]
    return tuple(
        Layer(i, name, 100 * (i + 1), 10, (4,), 16, True, members=(f"{name}.conv.weight", f"{name}.bn.running_mean"))
        for i, name in enumerate(names)
    )


def make_plan(freeze: int, keep: int = 4, above: Any = "tune") -> Plan:
    return Plan(network(), keep, freeze, above, tuple(i >= freeze for i in range(keep)), Recipe(6, 3e-3))


def arm(name: str, stage: str, mean: float, seconds: float) -> dict[str, Any]:
    score = {"mean": mean, "low": mean - 0.02, "high": mean + 0.01}
    return {"id": name, "plan": {}, "stage": stage, "score": score, "seconds": seconds, "peak_bytes": 3 * 2**20}


def summary(classes: tuple[str, ...]) -> dict[str, Any]:
    arms = [
        arm("freeze@2", "finalist", 0.95, 2.0),
        arm("full_finetune", "finalist", 0.94, 6.0),
        arm("linear_probe@3", "dropped@1", 0.96, 0.5),
    ]
    scratch = {**arm("scratch", "finalist", 0.81, 9.0), "certified": {"mean": 0.8, "low": 0.75, "high": 0.84}}
    full = {**arms[1], "certified": {"mean": 0.93, "low": 0.9, "high": 0.95}}
    decision = {
        "plan": {}, "arm": "freeze@2", "epsilon": 0.01, "confidence": 0.95, "certified": False,
        "plausible": ["freeze@2", "full_finetune"], "proven": [], "expected_regret": 0.004, "reason": "It is cheapest.",
    }  # fmt: skip
    cost = {
        "total_seconds": 40.0, "fill_seconds": 1.0, "probe_seconds": 2.0, "race_seconds": 20.0, "final_seconds": 8.0,
        "baseline_seconds": 9.0, "peak_bytes": 5 * 2**20, "exhaustive_seconds": 200.0, "full_finetune_seconds": 6.0,
    }  # fmt: skip
    return {
        "format": "frostline.summary/1", "task": "classification", "metric": "accuracy", "backbone": "timm/tiny",
        "data": {"train": 300, "validation": 100, "certification": 120, "classes": list(classes), "skipped": 1},
        "decision": decision,
        "score": {"metric": "accuracy", "value": 0.947, "low": 0.91, "high": 0.97, "n": 120, "kind": "held_out"},
        "arms": arms, "baselines": {"scratch": scratch, "full_finetune": full}, "cost": cost,
        "checks": {"cached_vs_live": 2e-6, "frozen_unchanged": True, "augmentation_gap": None},
        "verdicts": [{"kind": "overfitting", "holds": True, "evidence": "Gap of 9 points.", "advice": "Train less."}],
    }  # fmt: skip


def build(classes: tuple[str, ...] = ("ant", "bee", "cat", "dog"), plan: Plan | None = None) -> Report:
    curve = tuple(
        Evidence(Cut(i + 1, layer.name), Estimate(m, m - 0.03, m + 0.02), 0.3, 8, random=0.5, permuted=0.25)
        for i, (layer, m) in enumerate(zip(network(), (0.6, 0.8, 0.92, 0.9), strict=True))
    )
    return Report(
        summary=summary(classes),
        plan=plan or make_plan(2),
        curve=curve,
        profile=Profile(520, dict.fromkeys(classes, 130), 1.0, ((8, 8), (9, 9), (10, 10)), (), 1),
        split_how="stratified",
        warnings=("One class is small.",),
        skipped=((f"{classes[0]}/a.jpg", "truncated"),),
        command="frostline find data --backbone timm/tiny",
        versions={"torch": "2.0"},
        confusion=np.array([[30, 0, 0, 0], [2, 28, 0, 0], [0, 0, 30, 0], [0, 1, 0, 29]]),
        classes=classes,
        epochs={"freeze@2": tuple(Epoch(i, 1 / (i + 1), 0.8 + 0.02 * i, 0.1) for i in range(6))},
    )


def shown() -> Gallery:
    """Two pictures and a text, with names that would like to be markup."""
    entries = tuple(
        Entry(
            name, EVIL[0], EVIL[1], Shown((8, 8), "data:image/png;base64,AA==" if n < 2 else "", (EVIL[2],) * (n == 2))
        )
        for n, name in enumerate(EVIL[:3])
    )
    return Gallery("classification", "pictures", True, 120, 3, entries[:2], entries[2:])


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def printed(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return re.sub(r" +$", "", console.file.getvalue(), flags=re.MULTILINE)  # pyright: ignore[reportAttributeAccessIssue]


def test_page_tells_every_fact_of_the_summary(tmp_path: Path) -> None:
    report = build()
    path = page.write(tmp_path / "report.html", report)
    seen = Page(path.read_text(encoding="utf-8")).text
    assert words.answer(report.summary, report.plan) in seen
    wanted = [
        *(a["id"] for a in report.summary["arms"]), *report.classes, *(layer.name for layer in report.plan.layers),
        *(e.cut.name for e in report.curve), "from scratch", "full fine-tuning", "It is cheapest.", "Gap of 9 points.",
        "Train less.", "One class is small.", "truncated", "stratified", report.command, "torch 2.0", "94.7%",
        "timm/tiny", "bit for bit", "2e-06",
    ]  # fmt: skip
    assert [word for word in wanted if word not in seen] == []


def test_page_makes_no_request_and_runs_no_script() -> None:
    seen = Page(page.render(replace(build(EVIL), gallery=shown())))
    assert any(tag == "img" for tag, _ in seen.tags)
    assert {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                within = "data:image/" if tag == "img" else "#"
                assert (value or "").startswith(within), (tag, name, value)
    styles = page.render(build()).split("</style>")[0]
    assert "@import" not in styles
    assert not re.search(r"url\((?!#)", page.render(build()))
    policies = [a["content"] for tag, a in seen.tags if tag == "meta" and "http-equiv" in a]
    assert policies
    assert all("default-src 'none'" in (policy or "") and "script-src" not in (policy or "") for policy in policies)


def test_names_of_classes_and_files_stay_text_in_page_and_pictures() -> None:
    report = build(EVIL)
    markup = page.render(report)
    seen = Page(markup)
    assert "<script" not in markup
    assert "<img" not in markup
    for name in EVIL:
        assert re.sub(r"\s+", " ", name) in seen.text
    drawing = figures.confusion(np.eye(4, dtype=np.int64), [name[:16] for name in EVIL])
    ElementTree.fromstring(drawing)  # one well-formed element: no name closed it early
    assert "<script" not in drawing
    assert "&lt;script" in drawing


@settings(max_examples=8)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
def test_any_class_name_leaves_a_picture_well_formed(name: str) -> None:
    ElementTree.fromstring(figures.confusion(np.eye(2, dtype=np.int64), [name, "other"]))


def test_ids_of_a_page_are_unique_and_every_reference_finds_its_own_picture() -> None:
    seen = Page(page.render(build()))
    ids = [attributes["id"] for _, attributes in seen.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    references = [
        v[1:] for _, a in seen.tags for n, v in a.items() if n in ("href", "aria-labelledby") and v and v[0] == "#"
    ]
    clips = [v[5:-1] for _, a in seen.tags for n, v in a.items() if n == "clip-path" and v]
    assert clips
    assert {*references, *clips} <= set(ids)


def test_same_report_gives_the_same_bytes() -> None:
    assert page.render(build()) == page.render(build())


def test_a_saved_curve_is_the_same_bytes_twice_and_bears_no_date(tmp_path: Path) -> None:
    report = build()
    for suffix in (".svg", ".png"):
        first, second = (tmp_path / f"{i}{suffix}" for i in "ab")
        for path in (first, second):
            figures.save(path, report.curve, report.plan, "accuracy")
        assert first.read_bytes() == second.read_bytes()
        assert b"dc:date" not in first.read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_that_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    path = page.write(tmp_path / "report.html", build())
    before = path.read_bytes()
    broken = replace(build(), summary={**build().summary, "score": {"metric": "accuracy", "value": None}})
    with pytest.raises(KeyError):
        page.write(path, broken)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):  # a folder cannot be renamed over: the last step fails
        page.write(tmp_path / "folder", build())
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "report.html"]


def test_report_needs_no_torch_and_draws_only_when_asked() -> None:
    code = (
        "import sys, frostline.report.page, frostline.report.figures, frostline.report.text\n"
        "assert not {'torch', 'matplotlib', 'jinja2'} & set(sys.modules), 'loaded too early'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("freeze", "keep", "above", "expected"),
    [
        (0, 4, "tune", "Keep all 4 layers and train every one of them"),
        (3, 4, "tune", "Freeze the first 3 of 4 layers and train the last one"),
        (4, 4, "tune", "Freeze all 4 layers and train the head alone"),
        (3, 3, "drop", "Freeze the first 3 of 4 layers, drop the last layer and train the head alone"),
        (1, 3, "drop", "Freeze the first 1 of 4 layers, drop the last layer and train the 2 between"),
        (2, 2, "reinit", "Freeze the first 2 of 4 layers, start the last 2 layers afresh"),
        (0, 0, "reinit", "Transfer nothing: train all 4 layers from scratch"),
    ],
)
def test_every_shape_of_plan_has_its_words_and_its_picture(freeze: int, keep: int, above: str, expected: str) -> None:
    plan = make_plan(freeze, keep, above)
    assert words.advice(plan) == expected
    drawing = figures.depth_curve(build().curve, plan, "accuracy")
    assert (">frozen<" in drawing) == (freeze > 0)
    assert (">dropped<" in drawing) == (above == "drop")
    page.render(build(plan=plan))


def test_every_arm_and_baseline_stands_on_the_terminal() -> None:
    report = build(EVIL)
    seen = printed(text.render(report, Path("runs/one/report.html")))
    for word in ("freeze@2 (chosen)", "linear_probe@3", "from scratch", "frost line", "92.0%", "runs/one/report.html"):
        assert word in seen
    assert "Freeze the first 2 of 4 layers and train the last 2: 94.7% accuracy on 120 held-out examples" in seen


def test_rows_of_the_terminal_are_not_broken_at_80_columns() -> None:
    report = build()
    names = ("batch_statistics", "linear_probe@26", "drop@26-tune")
    wide = [arm(name, "dropped@1", 0.9, 17.0) for name in names]
    curve = tuple(replace(e, cut=replace(e.cut, name=f"mobilenet_v1.layer.{e.cut.depth + 20}")) for e in report.curve)
    report = replace(report, curve=curve, summary={**report.summary, "arms": [*report.summary["arms"], *wide]})
    for width in (80, 120):
        lines = printed(text.render(report), width).splitlines()
        assert max(map(len, lines)) <= width
        for name in names:
            (row,) = [line for line in lines if line.startswith(name)]
            assert " ".join(row.split()[1:]) == "out (1) 90.0% 88.0 to 91.0% 17 s 3.0 MiB"
        for e in curve:
            (row,) = [line for line in lines if line.startswith(f"    {e.cut.depth} ")]
            assert row.endswith("50.0%")
            assert ("mobilenet_v1.layer." if width > 80 else "mobilenet_…layer.") + str(e.cut.depth + 20) in row


def test_a_model_trained_once_more_has_a_score_of_the_procedure() -> None:
    said = "The score is an estimate of the procedure: the model was trained once more on all data."
    for refit in (False, True):
        report = build()
        report = replace(report, summary={**report.summary, "score": {**report.summary["score"], "refit": refit}})
        for seen in (Page(page.render(report)).text, printed(text.render(report), 200)):
            assert (said in seen) == refit
        seen = printed(text.trained(report.summary, report.plan, Path("model")), 200)
        assert (said in seen, "did not see" in seen) == (refit, not refit)


def test_page_counts_the_layers_above_the_kept_ones_from_the_first_that_is_not_kept() -> None:
    assert "The layers from 4 on are dropped" in Page(page.render(build(plan=make_plan(2, 3, "drop")))).text
    assert (
        "The layers from 3 on start from fresh weights" in Page(page.render(build(plan=make_plan(2, 2, "reinit")))).text
    )


def certified(report: Report) -> Report:
    """With scores of the finalists on the examples set aside, some with arm names as long as they come."""
    held = {"mean": 0.93, "low": 0.9, "high": 0.955}
    arms = [
        {**a, "certified": held if a["stage"] == "finalist" else None, "seconds": 1000 * a["seconds"]}
        for a in (*report.summary["arms"], arm("batch_statistics", "finalist", 0.9, 1.0))
    ]
    return replace(report, summary={**report.summary, "arms": arms})


def test_held_out_scores_of_finalists_are_shown_where_there_are_any() -> None:
    for report, there in ((build(), False), (certified(build()), True)):
        on_page = Page(page.render(report)).text
        assert ("93.0% (90.0 to 95.5%)" in on_page) == there
        for width in (80, 120):
            seen = printed(tables.arms_table(report), width)
            assert "…" not in seen and max(map(len, seen.splitlines())) <= width
            assert ("held out" in seen) == there
            rows = {line.split()[0]: " ".join(line.split()) for line in seen.splitlines() if "%" in line}
            assert ("93.0% 90.0 to 95.5%" in rows["full_finetune"]) == there
            # the chosen arm has one number everywhere: that of the run's score
            assert ("94.7% 91.0 to 97.0%" in rows["freeze@2"]) == there
            assert ("–" in rows["linear_probe@3"]) == there


def test_a_strategy_on_a_shorter_schedule_is_not_compared_with_full_trainings() -> None:
    report = build()
    short = {**arm("last_block", "dropped@1", 0.99, 0.1), "certified": None}
    report = replace(
        report, summary={**report.summary, "baselines": {**report.summary["baselines"], "last_block": short}}
    )
    assert "last block" not in [row.name for row in facts.strategies(report)]
    assert facts.seconds_of(report, "last_block") is None
    apart = replace(report, training_seconds={"last_block": 3.0})
    assert facts.seconds_of(apart, "last_block") == 3.0
    assert "last block" in [row.name for row in facts.strategies(apart)]


def test_a_known_strategy_has_its_arm_beside_its_name() -> None:
    report = build()
    at = {"mean": 0.9, "low": 0.88, "high": 0.92}
    stem = {**arm("freeze@2", "finalist", 0.95, 2.0), "certified": at}
    probe = {**arm("linear_probe@27", "finalist", 0.9, 2.0), "certified": at}
    known = {**report.summary["baselines"], "stem_frozen": stem, "linear_probe": probe}
    report = replace(report, summary={**report.summary, "baselines": known})
    for seen in (Page(page.render(report)).text, printed(tables.baselines_table(report), 100)):
        assert "stem frozen (freeze@2, chosen)" in seen
        assert "linear probe (linear_probe@27)" in seen
        assert "full_finetune)" not in seen
    lines = printed(tables.baselines_table(report), 80).splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines)


def test_a_metric_in_which_less_is_better_puts_the_least_first() -> None:
    loss = {**summary(("ant", "bee", "cat", "dog")), "metric": "log_loss"}
    loss["score"] = {**loss["score"], "metric": "log_loss"}
    report = replace(build(), summary=loss)
    means = [row.mean for row in facts.strategies(report)]
    assert means == sorted(means) and len(means) > 2
    finalists = [arm["score"]["mean"] for arm in facts.ranked(report) if arm["stage"] == "finalist"]
    assert finalists == sorted(finalists)
    assert "log-loss on 120" in printed(text.render(report)).replace("\n", " ")


def test_how_probably_the_model_is_better_than_the_known_strategies_is_said_in_words() -> None:
    report = build()
    assert facts.beaten(report) == ""
    known = {
        name: {**arm, "beaten": p}
        for (name, arm), p in zip(report.summary["baselines"].items(), (0.9999, 0.64), strict=True)
    }
    report = replace(report, summary={**report.summary, "baselines": known})
    said = (
        "Probability that the model is better than these on other examples of this kind: from scratch, 3x epochs more "
        "than 99.8%, full fine-tuning 64%."
    )
    assert said in " ".join(printed(text.render(report)).split())
    assert said in Page(page.render(report)).text
    chosen = {**report.summary, "score": {**report.summary["score"], "kind": "cross_validated"}}
    assert "rather too high" in facts.beaten(replace(report, summary=chosen))


def test_the_other_metrics_stand_in_the_terminal_and_on_the_page() -> None:
    report = build()
    assert facts.others(report) == ""
    measured = {
        "accuracy": {"mean": 0.947, "low": 0.91, "high": 0.97},
        "roc_auc": {"mean": 0.981, "low": 0.97, "high": 0.99},
        "log_loss": {"mean": 0.2134, "low": 0.15, "high": 0.29},
    }
    report = replace(report, summary={**report.summary, "metrics": measured})
    said = "In other metrics, on the same examples: ROC-AUC 98.1% (97.0 to 99.0%) and log-loss 0.213 (0.15 to 0.29)."
    assert said in " ".join(printed(text.render(report)).split())
    assert said in Page(page.render(report)).text
    guessed = {**report.summary, "score": {**report.summary["score"], "kind": "cross_validated"}}
    assert "not corrected" in facts.others(replace(report, summary=guessed))


@pytest.mark.parametrize(("metric", "name"), [("log_loss", "accuracy"), ("macro_f1", "balanced accuracy")])
def test_the_depth_curve_says_whose_accuracy_it_is_and_what_it_rests_on(metric: str, name: str) -> None:
    report = build()
    report = replace(report, summary={**report.summary, "score": {**report.summary["score"], "metric": metric}})
    table = printed(tables.depth_table(report.curve, report.plan, 300, metric), 100)
    assert f"Leave-one-out {name} of a linear probe on 300 training examples" in " ".join(table.split())
    assert f"linear probe, {name}" in figures.depth_curve(report.curve, report.plan, metric)
    seen = Page(page.render(report)).text
    assert f"leave-one-out {name} on 300 training examples" in seen
    assert f"after layer {name} interval" in seen


def test_what_is_said_of_a_curve_near_the_bottom_does_not_lie_across_the_axis() -> None:
    from matplotlib.figure import Figure

    report = build()
    lowest = min(min(e.score.low for e in report.curve), min(e.random or 1.0 for e in report.curve))
    highest = max(e.score.high for e in report.curve)
    for by in (0.0, 0.06, 0.12, 0.15, 0.3):  # the picture ends at 0.16
        curve = [replace(e, permuted=lowest - by * (highest - lowest)) for e in report.curve]
        figure = Figure(figsize=(7.6, 3.5), layout="constrained")
        figures._depth_curve(figure, curve, report.plan, "accuracy", narrow=False)  # pyright: ignore[reportPrivateUsage]
        figure.canvas.draw()
        (axes,) = figure.axes
        said = [text.get_window_extent() for text in axes.texts if text.get_text() == "shuffled labels"]
        assert bool(said) == (by < 0.16)
        assert said or "shuffled labels score" in axes.get_xlabel()
        assert all(box.y0 > axes.get_window_extent().y0 for box in said)


def test_what_lies_below_a_curve_is_told_in_the_units_of_the_curve() -> None:
    report = build()
    for metric, said in (("r2", "score 0.05, below"), ("accuracy", "score 5.0%, below")):
        curve = [replace(e, metric=metric, permuted=0.05) for e in report.curve]
        assert said in figures.depth_curve(curve, report.plan, metric)


@pytest.mark.parametrize("out", ["", " --out 'my runs/1'", " --out=one"])
def test_the_command_to_repeat_a_run_does_not_write_into_that_run(out: str) -> None:
    report = replace(build(), command=f"frostline find 'my data'{out} --seed 3")
    assert facts.again(report) == "frostline find 'my data' --seed 3"
    seen = Page(page.render(report)).text
    assert "frostline find 'my data' --seed 3" in seen and "add --out with another one" in seen


def test_why_layers_are_no_cuts_is_said_once_below_their_table() -> None:
    layers = [
        Layer(i, f"mobilenet_v1.encoder.layer.{i}", 10**7, 10**9, (64, 112, 112), 2**22, i % 3 == 0, why=why)
        for i, why in enumerate(("", "left out: 16 cuts of about equal cost are enough", "shares weights") * 8)
    ]
    for width in (80, 140):
        seen = printed(tables.layer_table("timm/tiny", layers, None), width)
        lines = seen.splitlines()
        assert max(map(len, lines)) <= width
        assert seen.count("left out: 16 cuts") == seen.count("shares weights") == 1
        for layer in layers:
            (row,) = [line for line in lines if line.split()[:1] == [str(layer.index + 1)]]
            assert row.split()[1].endswith(f"layer.{layer.index}")
            assert row.split()[-1] == ("yes", "(1)", "(2)")[layer.index % 3]


def test_the_chosen_arm_alone_has_its_colour_among_learning_curves_and_losses_stay_above_zero() -> None:
    epochs = {name: tuple(Epoch(i, 1 / (i + 1) ** 3, None, 0.1) for i in range(6)) for name in ("a", "b", "c")}
    ember = "var(--ember"
    assert ember not in figures.learning(epochs, "other", "accuracy")
    drawn = figures.learning(epochs, "c", "accuracy")
    (said,) = [line for line in drawn.splitlines() if ember in line and "<text" in line]
    assert ">c (chosen)<" in said
    assert "−" not in drawn  # the minus sign of an axis


@given(
    st.lists(st.floats(0, 20), max_size=2),
    st.lists(st.floats(0, 1), min_size=5, max_size=5),
    st.floats(1, 6),
)
def test_no_line_runs_through_a_label_that_was_placed(lines: list[float], gaps: list[float], width: float) -> None:
    x = clear_place([0, 5, 10, 15, 20], gaps, lines, width, (0.0, 20.0))
    assert width <= x + 1e-9 and x <= 20 + 1e-9
    widest = max(b - a for a, b in pairwise(sorted([0.0, 20.0, *lines])))
    if widest > 1.2 * width + 1:
        assert not crossed(x - width, x, lines)


def test_one_fold_is_not_called_cross_validation() -> None:
    report = build()
    score, data = {**report.summary["score"], "kind": "cross_validated"}, report.summary["data"]
    for folds in (1, 5):
        said = words.answer({**report.summary, "score": score, "data": {**data, "folds": folds}}, report.plan)
        assert ("on 120 validation examples, corrected for having been chosen on them" in said) == (folds == 1)
        assert ("cross-validated over 120 examples" in said) == (folds == 5)


def test_page_says_what_certainty_lacks_and_shows_no_folder_of_a_machine() -> None:
    report = build()
    decision = {**report.summary["decision"], "needed": 744}
    report = replace(
        report, summary={**report.summary, "decision": decision, "backbone": "/home/me/nets/tiny.py:small"}
    )
    seen = Page(page.render(report)).text
    assert "About 740 more examples would show it" in seen
    assert "tiny.py:small on 520 pictures of 4 classes" in seen
    assert "/home/me" not in seen


def test_a_verdict_reads_as_two_sentences() -> None:
    report = build()
    verdict = {"kind": "overfitting", "holds": True, "evidence": "log-loss rises", "advice": "Train less."}
    report = replace(report, summary={**report.summary, "verdicts": [verdict]})
    assert "! Log-loss rises. Train less." in printed(text.render(report))
    assert "Log-loss rises. Train less." in Page(page.render(report)).text


def test_probing_says_what_a_search_would_take() -> None:
    plan = make_plan(0)
    report = build()
    assert report.profile is not None
    arms = [Arm(name, plan, (3e-3,)) for name in ("lp_ft", "gradual")]
    curve = [replace(evidence, shift=0.25) for evidence in report.curve]
    seen = printed(text.probed(report.profile, curve, 300, arms, metric="accuracy", seconds=75.0, stored=3 * 2**20))
    assert "520 pictures of 4 classes" in seen and "identical pictures: 0" in seen
    assert "0.25" in seen and "nats a channel" in " ".join(seen.split())
    assert "frost line" not in seen and "plan freezes" not in seen  # nothing is chosen yet
    assert "A search would race 2 strategies: lp_ft, gradual." in seen
    assert "Forecast: about 75 s for the race and its baselines; 3.0 MiB of activations stored." in seen
    assert printed(tables.plan_table(plan, "The plan")).startswith("\nThe plan\ndepth")


@given(st.text("ab.", min_size=1, max_size=60), st.integers(8, 40))
def test_a_shortened_name_fits_and_keeps_its_end(name: str, limit: int) -> None:
    seen = words.middle(name, limit)
    assert len(seen) <= limit
    head, ellipsis, tail = seen.partition("…")
    assert seen == name or (ellipsis and name.startswith(head) and name.endswith(tail) and tail)


def test_square_brackets_in_names_are_not_markup() -> None:
    report = build()
    report = replace(report, warnings=("[red]fold[/] [link=x]",))
    assert "[red]fold[/] [link=x]" in printed(text.render(report))


def test_plan_table_is_as_it_was() -> None:
    assert printed(tables.plan_table(make_plan(2, 3, "drop"))) == (
        "depth   layer      parameters   kept   frozen   learning rate\n"
        "─────────────────────────────────────────────────────────────\n"
        "    1   stem              100   yes    yes                  –\n"
        "    2   blocks.0          200   yes    yes                  –\n"
        "    3   blocks.1          300   yes    no              0.0003\n"
        "    4   blocks.2          400   no     no             dropped\n"
        "trainable params: 300 || all params: 600 || trainable%: 50.00\n"
    )


def test_search_pays_for_itself_after_its_cost_over_what_a_training_saves() -> None:
    said = " ".join(facts.savings(build()))
    # 40 s / (6 s - 2 s) is 10: one more is in profit
    assert said.endswith(
        "One training of the chosen plan takes 2.0 s: beside full fine-tuning at 6.0 s (3.0x) the search is repaid in "
        "time after 11 trainings, beside training from scratch for three times the epochs at 9.0 s (4.5x) after 6."
    )
    sweep = "training every cut at three learning rates with three seeds each to the end"
    assert f"{sweep} would have taken about 3.3 min, 5.0x as long" in said
    slower = replace(build(), training_seconds={"freeze@2": 7.0})
    assert "not noticeably faster than full fine-tuning: 7.0 s and 6.0 s." in " ".join(facts.savings(slower))


def test_what_the_run_found_of_its_own_work_is_told_on_the_page_and_in_the_terminal() -> None:
    checks = {"cached_vs_live": 2e-6, "frozen_unchanged": True, "augmentation_gap": -0.0123, "forecast_error": 0.154}
    report = build()
    report = replace(report, summary={**report.summary, "checks": checks})
    said = " ".join(facts.checked(report))
    assert said == (
        "Frozen layers are bit for bit what they were. The losses of training from the store and from the examples "
        "differ by 2e-06 nats at most. With examples that vary anew in every epoch the chosen plan is 1.23 points "
        "worse than with the fixed views that short trainings learned from. A training took 15% more or less than "
        "forecast (median)."
    )
    assert said in Page(page.render(report)).text
    assert said in " ".join(printed(text.render(report)).split())
    more = replace(report, summary={**report.summary, "checks": {**checks, "augmentation_gap": 0.02}})
    assert "2.00 points better than" in " ".join(facts.checked(more))
    silent = replace(report, summary={**report.summary, "checks": {"augmentation_gap": None, "cached_vs_live": None}})
    assert facts.checked(silent) == ()


@pytest.mark.parametrize("total", [1.0, 1e6])
def test_times_of_trainings_side_by_side_are_not_called_parts_of_the_search(total: float) -> None:
    report = build()
    cost = {**report.summary["cost"], "total_seconds": total}
    seen = Page(page.render(replace(report, summary={**report.summary, "cost": cost}))).text
    assert ("ran side by side; added up" in seen, "Of the search's time" in seen) == (total == 1.0, total != 1.0)


def test_the_two_sets_are_told_and_a_choice_outside_of_them_too() -> None:
    summary = build().summary

    def said(**decision: object) -> str:
        return words.sets({**summary, "decision": {**summary["decision"], "arm": "a", **decision}})

    assert said(plausible=["a"], proven=["a"]) == ""
    assert said(plausible=["a", "b", "c"], proven=[]) == "This data cannot tell these from the best: a, b and c."
    for better in ({}, {"better": ["b"]}):  # who beat the choice is told in the decision's reason
        assert said(plausible=["b", "c"], proven=["b"], **better) == (
            "This data cannot tell these from the best: b and c. The choice is not among them. "
            "Proven to be within 1 point of the best: b."
        )
    report = build()
    for plausible in (["freeze@2"], ["full_finetune"]):
        changed = {**report.summary, "decision": {**report.summary["decision"], "plausible": plausible}}
        seen = Page(page.render(replace(report, summary=changed))).text
        assert ("(the choice is not among them)" in seen) == ("freeze@2" not in plausible)


def test_every_strategy_that_is_proposed_is_explained() -> None:
    names = [
        "linear_probe@3", "lp_ft", "full_finetune", "freeze@1", "last_block", "layer_decay", "gradual", "drop@2-tune",
        "reinit@2", "batch_statistics",
    ]  # fmt: skip
    assert len(glossary.explained(names)) == len(names)
    report = build()
    seen = Page(page.render(report)).text
    assert all(meaning in seen for _, meaning in glossary.explained(arm["id"] for arm in report.summary["arms"]))


def test_a_search_that_took_longer_than_the_sweep_says_so() -> None:
    report = build()
    report = replace(report, summary={**report.summary, "cost": {**report.summary["cost"], "exhaustive_seconds": 20.0}})
    assert facts.savings(report)[0] == (
        "The whole search took 40 s, longer than training every cut at three learning rates with three seeds each to "
        "the end would have: about 20 s. Where a full training takes seconds, a search cannot pay in time; what it "
        "adds is the error statement."
    )


def test_a_plan_fitted_in_closed_form_is_not_said_to_be_trained() -> None:
    report = replace(build(plan=make_plan(4)), training_seconds={"freeze@2": 0.02})
    said = facts.savings(report)
    assert "fitted in closed form, not trained: 20 ms" in said[1]
    assert said[2:] == (
        "Full fine-tuning takes 6.0 s, more than 100x as long, "
        "and training from scratch for three times the epochs takes 9.0 s, more than 100x as long.",
    )
    assert "more than 100x" in printed(tables.baselines_table(report), 80)


def test_snippet_freezes_the_same_parameters_as_the_plan() -> None:
    from torch import nn

    def block() -> Any:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    model = nn.ModuleDict(
        {"stem": block(), "blocks": nn.ModuleList(block() for _ in range(11)), "head": nn.Linear(3, 2)}
    )
    parts = ["stem", *(f"blocks.{i}" for i in range(11))]
    state = list(model.state_dict())
    layers = tuple(
        Layer(i, name, 18, 1, (1,), 1, True, members=tuple(key for key in state if key.startswith(f"{name}.")))
        for i, name in enumerate(parts)
    )
    # the second block, "blocks.1", must not take "blocks.10" with it
    plan = Plan(layers, 12, 3, "tune", tuple(i >= 3 for i in range(12)), Recipe(2, 1e-2, layer_decay=0.5))
    scope: dict[str, Any] = {"model": model}
    exec(
        dict(snippet.snippets(plan))["The same freezing in a training loop of your own"], scope
    )  # what a reader would paste
    rates = dict(zip(parts, plan.rates(), strict=True))
    groups = {id(p): group["lr"] for group in scope["optimiser"].param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[: 2 if name.startswith("blocks") else 1])
        rate = rates.get(part, plan.recipe.lr)
        assert parameter.requires_grad == (rate is not None), name
        assert groups.get(id(parameter)) == (None if rate is None else pytest.approx(rate, rel=5e-3)), name
    assert [not block.training for block in model["blocks"]] == [True, True, *[False] * 9]
    assert not any(block[1].training for block in model["blocks"])  # the plan keeps the stored statistics


def test_modules_that_are_numbered_as_ultralytics_does_are_frozen_by_its_numbers() -> None:
    def of(*members: str) -> tuple[Layer, ...]:
        return tuple(Layer(i, f"l{i}", 1, 1, (1,), 1, True, members=(name,)) for i, name in enumerate(members))

    yolo = of("model.0.conv.weight", "model.1.conv.weight", "model.10.cv1.weight", "model.10.cv2.weight")
    learns = (False, False, True, True)
    told = dict(snippet.snippets(Plan(yolo, 4, 2, "tune", learns, Recipe(9, 1e-2))))["The same freezing in Ultralytics"]
    assert "epochs=9, freeze=[0, 1])" in told
    halved = Plan(yolo, 4, 3, "tune", (False, False, False, True), Recipe(9, 1e-2))
    other = Plan(of("model.0.conv.weight", "stem.weight"), 2, 1, "tune", (False, True), Recipe(9, 1e-2))
    assert len(snippet.snippets(halved)) == len(snippet.snippets(other)) == 1


@given(st.lists(st.sampled_from(["a", "a.b", "a.b.c", "ab", "a.c", "b.a", "b"]), unique=True), st.data())
def test_shortest_prefixes_cover_the_wanted_and_nothing_else(names: list[str], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    leaves = [n for n in names if not any(other.startswith(n + ".") for other in names)]  # as state dicts are
    wanted = [n for n in wanted if n in leaves]
    prefixes = snippet.shortest(wanted, [n for n in leaves if n not in wanted])
    covered = {n for n in leaves if any((n + ".").startswith(p + ".") for p in prefixes)}
    assert covered == set(wanted)


def test_embedding_keeps_two_pictures_apart() -> None:
    svg = '<?xml?><svg width="4pt" height="3pt" viewBox="0 0 4 3" xmlns="x"><g id="a" clip-path="url(#b)"/></svg>'
    assert embed(svg, "one") == '<svg viewBox="0 0 4 3"><g id="one-a" clip-path="url(#one-b)"/></svg>'


@pytest.mark.parametrize(
    ("value", "expected"), [(0.09, "90 ms"), (2.34, "2.3 s"), (58.2, "58 s"), (412.0, "6.9 min"), (9000, "2.5 h")]
)
def test_time_is_said_in_the_unit_that_keeps_it_short(value: float, expected: str) -> None:
    assert words.seconds(value) == expected
