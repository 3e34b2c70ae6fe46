"""How a run tells what it does: bars on a terminal, lines in a file."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from frostline.values import Event, Show, silent


@contextmanager
def told(quiet: bool) -> Generator[Show]:
    """Progress on standard error, and sentences between: bars on a terminal, lines elsewhere; nothing with --json."""
    console = Console(stderr=True)
    if quiet:
        yield silent
    elif console.is_terminal:
        with _bars(console) as show:
            yield show
    else:
        yield _lines()


@contextmanager
def _bars(console: Console) -> Generator[Show]:
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        bars: dict[str, TaskID] = {}

        def show(event: Event) -> None:
            if event.text:
                progress.console.print(event.text, markup=False, highlight=False)
            if event.total:
                if event.stage not in bars:
                    bars[event.stage] = progress.add_task(event.stage, total=event.total)
                progress.update(bars[event.stage], completed=event.done, total=event.total)

        yield show


def _lines() -> Show:
    """A line when a stage begins and at every tenth of it: in a file, bars would stand only at the very end."""
    tenths: dict[str, int] = {}

    def show(event: Event) -> None:
        if event.text:
            print(event.text, file=sys.stderr, flush=True)
        if event.total and tenths.get(event.stage) != (tenth := 10 * event.done // event.total):
            tenths[event.stage] = tenth
            print(f"{event.stage}: {event.done} of {event.total}", file=sys.stderr, flush=True)

    return show
