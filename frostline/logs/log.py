"""The libraries that a run can be logged for, one file each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from frostline.logs import mlflow, tensorboard
from frostline.logs.entry import Entry, Log

LOGS: Mapping[str, Callable[[Path, Entry], AbstractContextManager[Log]]] = {  # `settings.LOGS` are its names
    "tensorboard": tensorboard.opened,
    "mlflow": mlflow.opened,
}


@contextmanager
def opened(names: Sequence[str], folder: Path, whole: Entry) -> Generator[tuple[Log, ...]]:
    """These logs of a run directory; `whole` is what is known of the run before it has any answer.

    Raises OptionError where a library is not installed.
    """
    with ExitStack() as stack:
        yield tuple(stack.enter_context(LOGS[name](folder, whole)) for name in names)
