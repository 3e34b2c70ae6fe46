"""How a run tells what it does: bars on a terminal, lines in a file."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from frostline.values import Event, Show, silent


@contextmanager
def told(quiet: bool) -> Generator[Show]:
    """Progress on standard error, and sentences between: bars on a terminal, lines elsewhere; nothing with --json."""
    console = Console(stderr=True)
    if quiet:
        with heeding(silent) as show:
            yield show
    elif console.is_terminal:
        with _bars(console) as bars, heeding(bars) as show:
            yield show
    else:
        with heeding(_lines()) as show:
            yield show


@contextmanager
def heeding(show: Show) -> Generator[Show]:
    """Progress at which a run ends that was interrupted before, wherever the interrupt went.

    Python drops a KeyboardInterrupt that is raised in a finalizer (a database connection that is given back has one),
    and some libraries catch it. Where interrupts are not Python's own, as in a shell's background jobs, or
    reach another thread, they stay so.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield show
        return
    interrupted = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    def tell(event: Event) -> None:
        if interrupted:
            raise KeyboardInterrupt
        show(event)

    signal.signal(signal.SIGINT, hear)
    try:
        yield tell
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
