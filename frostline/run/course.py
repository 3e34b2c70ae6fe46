"""The course of a search on a bench: units are trained, kept in the study, and told to the race."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import joblib
from pydantic import TypeAdapter
from threadpoolctl import threadpool_limits

from frostline import study as studies
from frostline import workers
from frostline.bench import again
from frostline.bench.again import Job
from frostline.bench.bench import Bench, Source
from frostline.bench.finals import certify
from frostline.bench.lay import Demands, lay
from frostline.bench.unit import FINALISTS, UNDERWAY, kept_weights, stackable
from frostline.errors import RunError, RunFailed, StoreError
from frostline.logs.entry import Log
from frostline.plan import to_json, with_rate
from frostline.run import directory, entrants, logged, terms
from frostline.run.wish import Wish
from frostline.search import race as races
from frostline.search.arms import exact
from frostline.search.decide import Finalist
from frostline.search.race import Race
from frostline.search.schedule import Schedule, whole
from frostline.settings import Settings, apart, tags
from frostline.study import Study
from frostline.values import (
    Arm,
    Calibration,
    Decision,
    Event,
    Outcome,
    Plan,
    Show,
    Unit,
    asked,
    silent,
)

RIVALS = "backbones"  # the folder in a run of what each of several backbones needs for itself

Told = Mapping[Unit, Outcome]  # what is known by now


def nothing(*_: object) -> tuple[Job, ...]:
    """No work besides what is asked for."""
    return ()


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory while something is going on in it."""

    folder: Path
    settings: Settings
    study: Study
    started: float  # on the performance counter
    hands: workers.Crew | None  # other processes; they start when they are first needed
    logs: tuple[Log, ...] = ()  # for other libraries; this process alone writes them
    ahead: float = 0.0  # seconds that the trainings still to come are forecast to take, one after the other

    @property
    def finished(self) -> bool:
        """The summary is written last, so it says that all is there."""
        return (self.folder / "summary.json").exists()

    def spent(self) -> float:
        """Wall-clock seconds of everything, those of interrupted sessions included."""
        return (studies.noted(self.study, "seconds") or 0.0) + time.perf_counter() - self.started


@contextmanager
def begun(given: Settings) -> Generator[Run]:
    """A run directory, new or resumed; what an interrupt leaves is kept, and the time it took is noted."""
    given = shared(given, cores())
    with directory.begun(given) as folder, workers.crew(given.workers or given.threads) as hands:
        study = studies.open_study(folder, resume=given.resume)
        run = Run(folder, given, study, time.perf_counter(), hands)
        try:
            with single_blas(), logged.opened(given, study) as logs:
                yield replace(run, logs=logs)
        finally:
            if not run.finished:
                with suppress(StoreError):  # on a full disk, what failed first is what matters
                    studies.note(study, "seconds", run.spent())
            studies.close_study(study)


def single_blas() -> AbstractContextManager[object]:
    """One thread for NumPy's algebra: the probes' matrices are small, and threads that wait take others' time."""
    return threadpool_limits(1, user_api="blas")


def laid(run: Run, source: Source, *, demands: Demands | None = None, show: Show = silent) -> Bench:
    """The bench of a run, with those of its rivals where several backbones race.

    Calibrations are kept, so that a resumed run forecasts and chooses by the same costs.
    """
    benches = list[Bench]()
    for tag, alone in zip(tags(run.settings), apart(run.settings), strict=True):
        folder, name = (run.folder / RIVALS / tag, f"calibration.{tag}") if tag else (run.folder, "calibration")
        folder.mkdir(parents=True, exist_ok=True)
        known, first = recalled(run.study, name), benches[0] if benches else None
        if first is not None:  # one process trains all networks: they share its threads, its precision, its company
            alone = replace(alone, precision=first.calibration.way.precision, workers=first.workers)
        benches.append(
            lay(alone, source, folder=folder, calibration=known, demands=demands, tag=tag, beside=first, show=show)
        )
        studies.note(run.study, name, asdict(benches[-1].calibration))
    bench = benches[0]
    bench.rivals.update({each.tag: each for each in benches if each.tag})
    marks = ids_of(bench)
    begun_with = studies.noted(run.study, "data")
    if begun_with not in (None, marks):
        raise RunError(
            f"the data in {run.settings.data!r} is not what the run in {str(run.folder)!r} was begun with "
            f"(digest {marks}, then {begun_with}); put it back, or give another --out"
        )
    studies.note(run.study, "data", marks)
    resolved = {each.tag: terms.resolved(each) for each in benches}
    directory.resolve(run.folder, resolved if bench.rivals else resolved[""])
    return bench


def roused(bench: Bench, run: Run) -> None:
    """Let the other processes start and lay their benches while this one goes on, if they will be worth it.

    A run that is resumed may have little left: there they start when they are needed.
    """
    begun_with = studies.outcomes(run.study)
    if run.hands is not None and not begun_with and terms.worth_sharing(bench, bench.forecast.seconds):
        run.hands.rouse(again.laid, again.blueprints(bench))


def bound(run: Run, plan: Plan | Wish) -> None:
    """Note the plan that a run trains. Raises RunError where it was begun with another one."""
    said = to_json(plan) if isinstance(plan, Plan) else asdict(plan)
    mark = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    begun_with = studies.noted(run.study, "plan")
    searched = begun_with is None and (run.finished or bool(studies.outcomes(run.study)))
    if searched or begun_with not in (None, mark):
        raise RunError(
            f"the plan (digest {mark}) is not the one that the run in {str(run.folder)!r} was begun with "
            f"({begun_with or 'a search'}); give that plan, or another --out"
        )
    if begun_with is None:
        studies.note(run.study, "plan", mark)


def ids_of(bench: Bench) -> str:
    """A digest of which examples there are, with which labels: outcomes name rows, so these must not change."""
    targets = bench.examples.targets
    marks = hashlib.sha256(targets.tobytes()).hexdigest() if asked(targets) == "segmentation" else targets.tolist()
    text = json.dumps([bench.examples.ids, marks])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def entered(bench: Bench, evidence: entrants.Curves, run: Run, *, show: Show = silent) -> Race:
    """The race at its start. Its schedule is kept: a resumed run goes on with it, whatever it could afford by now."""
    noted = studies.noted(run.study, "schedule")
    begun_with = None if noted is None else TypeAdapter(Schedule).validate_python(noted)
    found = terms.entered(bench, evidence, begun=begun_with, show=show)
    studies.note(run.study, "schedule", asdict(found.schedule))
    return found


def foreseen(bench: Bench, start: Race, run: Run) -> Run:
    """The run with what its race and its baselines will still take, from their start."""
    taken = sum(outcome.seconds for outcome in studies.outcomes(run.study))
    return replace(run, ahead=max(0.0, terms.serial_seconds(bench, start.arms, start.schedule) - taken))


def race(
    bench: Bench, given: Race, run: Run, *, beside: Callable[[Race, Told], Sequence[Job]] = nothing, show: Show = silent
) -> Race:
    """Bring a race to its end, resuming from what the study holds; `beside` is trained where processes are free."""
    targets, rungs = bench.examples.targets, len(given.schedule.rungs)
    known = {arm.id for arm in given.arms}
    for outcome in studies.outcomes(run.study):
        unit = outcome.unit
        raced = unit.arm in known and 0 < unit.rung <= rungs
        if raced and _usable(bench, unit, keep=whole(given.schedule, unit.rung)):
            given = races.tell(given, outcome, targets)
    while units := races.ask(given):
        rung = units[0].rung
        stage = "final" if rung == rungs and rungs > 2 else f"round {rung}"
        arms = {arm.id: arm for arm in given.arms}
        keep = whole(given.schedule, rung)
        every = len(races.rounds(given)[-1].units)
        show(Event(stage, every - len(units), every))
        jobs, aside = [Job(arms[unit.arm], unit, keep) for unit in units], partial(beside, given)
        for done, outcome in enumerate(trained(bench, jobs, run, aside=aside), every - len(units) + 1):
            given = races.tell(given, outcome, targets)
            show(Event(stage, done, every))
    return given


def trained(
    bench: Bench, jobs: Sequence[Job], run: Run, *, aside: Callable[[Told], Sequence[Job]] = nothing
) -> Iterator[Outcome]:
    """Train units, on this process or on others, and keep each outcome in the study as soon as it is there.

    Closed forms stay here, and so does everything where other processes are not worth their start. Where they are, what
    `aside` names is trained by those that are free, and nobody waits for it.
    """
    alone = sum(terms.unit_seconds(bench, job.arm, job.unit) for job in jobs if not exact(job.arm))
    worth = sum(not exact(job.arm) for job in jobs) > 1 and terms.worth_sharing(bench, max(alone, run.ahead))
    hands = run.hands if run.hands is not None and (worth or run.hands.engaged) else None
    if hands is None or bench.device.device.type != "cpu":  # on a CPU, processes share the rates of an arm too
        jobs = bundled(bench, jobs)
    there = [job for job in jobs if not exact(job.arm)]
    for job in jobs if hands is None else (job for job in jobs if exact(job.arm)):
        yield from [_kept(bench, run, job.arm, outcome) for outcome in again.done(bench, job)]
    if hands is None:
        return
    hands.rouse(again.laid, again.blueprints(bench))
    _begin(hands, run, aside)
    for job, outcomes in hands.run(again.done, there):
        kept = [_kept(bench, run, job.arm, outcome) for outcome in outcomes]
        if job in there:
            yield from kept
        else:
            _begin(hands, run, aside)


def bundled(bench: Bench, jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those of the race that train together as one; what may be under way beside stays by itself."""
    found = dict[object, Job]()
    for job in jobs:
        one = job.unit.rung > 0 and not job.keep and stackable(bench, job.arm)
        name = (job.arm.id, replace(job.unit, rate=0.0)) if one else job
        first = found.get(name)
        found[name] = job if first is None else replace(first, others=(*first.others, job.unit))
    return list(found.values())


def _begin(hands: workers.Crew, run: Run, aside: Callable[[Told], Sequence[Job]]) -> None:
    """Let processes that are free begin what comes later."""
    if hands.free:
        for job in aside(told(run)):
            if hands.free and not exact(job.arm):
                hands.begin(again.done, job)


def told(run: Run) -> dict[Unit, Outcome]:
    """What the study holds."""
    return {outcome.unit: outcome for outcome in studies.outcomes(run.study)}


def missing(bench: Bench, jobs: Sequence[Job], known: Told) -> tuple[Job, ...]:
    """Those that nobody trained yet, or whose weights are wanted and gone."""
    return tuple(job for job in jobs if job.unit not in known or not _usable(bench, job.unit, keep=job.keep))


def _usable(bench: Bench, unit: Unit, *, keep: bool) -> bool:
    """An outcome whose weights are wanted and gone is trained again."""
    return not keep or kept_weights(bench, unit).exists()


def cleared(run: Run) -> None:
    """Remove the weights of all finalists: the model that is handed back has been copied; nothing is underway."""
    for folder in (run.folder, *run.folder.glob(f"{RIVALS}/*")):
        for name in (FINALISTS, UNDERWAY):
            shutil.rmtree(folder / name, ignore_errors=True)


def once(bench: Bench, arm: Arm, unit: Unit, run: Run, *, keep: bool = True) -> Outcome:
    """One unit outside the race, trained unless the study holds it. Raises RunFailed where it diverged."""
    known = told(run)
    known |= {o.unit: o for o in trained(bench, missing(bench, [Job(arm, unit, keep)], known), run)}
    outcome = known[unit]
    if outcome.diverged:
        raise RunFailed(
            f"the training of {unit.arm!r} at learning rate {unit.rate:.3g} diverged, so no model of it is handed "
            "back; lower the learning rate of its plan, or begin anew with another --out and --seed"
        )
    return outcome


def _kept(bench: Bench, run: Run, arm: Arm, outcome: Outcome) -> Outcome:
    kept = studies.record(run.study, outcome, bench.examples.targets, logged.about(bench, arm, outcome))
    for log in run.logs:
        log.write(logged.of_unit(kept))
    last = outcome.epochs[-1].number + 1 if outcome.epochs else 0
    ended = f"the loss was no number any more in epoch {last}" if outcome.diverged else "its schedule was at its end"
    directory.log(
        run.folder,
        "unit",
        key=outcome.unit.key,
        seconds=round(outcome.seconds, 3),
        peak_bytes=outcome.peak_bytes,
        diverged=outcome.diverged,
        stopped=ended if outcome.epochs else "it is fitted, not trained",
        losses=[round(epoch.loss, 5) for epoch in outcome.epochs],
        gradients=[round(epoch.gradient, 5) for epoch in outcome.epochs],
    )
    return outcome


def recalled(study: Study, name: str) -> Calibration | None:
    """A calibration that the run was begun with."""
    found = studies.noted(study, name)
    return None if found is None else TypeAdapter(Calibration).validate_python(found)


def cores() -> int:
    """Those that this process may use: in a container or under a scheduler, fewer than the machine has."""
    return joblib.cpu_count()


def shared(settings: Settings, cores: int) -> Settings:
    """The settings with this machine's cores shared among the workers."""
    return settings if settings.threads else replace(settings, threads=max(1, cores // (settings.workers or 1)))


def certified(bench: Bench, race: Race, run: Run, *, show: Show = silent) -> tuple[Finalist, ...]:
    """The finalists with what decides and, apart from it, what certifies: read here for the first time."""
    known = told(run)
    ended = [(replace(arm, plan=with_rate(arm.plan, rate)), units) for arm, rate, units in races.finalists(race)]
    proofs: dict[str, tuple[Outcome, ...]] = {}
    if whole(race.schedule) and len(bench.split.certification):
        proven = certify(bench, [(arm, units[0]) for arm, units in ended], show=show)
        proofs = {outcome.unit.arm: (outcome,) for outcome in proven}
    return tuple(
        Finalist(
            arm, terms.cost_of(bench.of(arm.id), arm.plan), tuple(known[unit] for unit in units), proofs.get(arm.id, ())
        )
        for arm, units in ended
    )


def trained_in_full(bench: Bench, race: Race, chosen: Finalist, unit: Unit, run: Run) -> Finalist:
    """The choice as it is handed back: where the last rung was shorter, with what its full training came to."""
    outcome = once(bench, chosen.arm, unit, run)
    if not races.training_of_the_choice(race, chosen.arm.id):
        return chosen
    proof = certify(bench, [(chosen.arm, unit)]) if len(bench.split.certification) else ()
    return replace(chosen, validation=(outcome,), certification=proof)


def chosen_unit(race: Race, decision: Decision) -> Unit:
    """The training whose model is handed back: one that was certified, or the choice's own full schedule."""
    later = races.training_of_the_choice(race, decision.arm)
    if later:
        return later[0]
    return next(units[0] for arm, _, units in races.finalists(race) if arm.id == decision.arm)
