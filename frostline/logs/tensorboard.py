"""Event files of TensorBoard: RUN/tensorboard/NAME holds one entry, in one file that appears whole.

The records are made of TensorBoard's own messages and not by its writers: these load TensorFlow where it is installed,
and append to a file, so that an entry would be seen half-written, and twice when it is told again.
"""
# pyright: reportAttributeAccessIssue=false
# the names of messages are made while their modules are imported

from __future__ import annotations

import io
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.errors import OptionError, StoreError
from frostline.logs.entry import Entry, Value

FOLDER = "tensorboard"
FILE = "events.out.tfevents.frostline"  # one name, so that a later entry takes the place of an earlier one


@dataclass(frozen=True, slots=True)
class Events:
    """The event files of a run."""

    folder: Path

    def written(self) -> frozenset[str]:
        return frozenset(file.parent.name for file in self.folder.glob(f"*/{FILE}"))

    def write(self, entry: Entry) -> None:
        _write(self.folder / entry.name / FILE, encoded(entry))


@contextmanager
def opened(folder: Path, whole: Entry) -> Generator[Events]:
    """The event files in a run directory. Raises OptionError where the library is not installed."""
    try:
        import tensorboard.summary.writer.record_writer  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise OptionError(
            "log is 'tensorboard', and that library is not installed; install it: "
            "pip install 'frostline[tensorboard]', or leave it away"
        ) from None
    yield Events(folder / FOLDER)


def encoded(entry: Entry) -> bytes:
    """The content of an event file: hyper-parameters, curves, figures and the text, as TensorBoard's plugins read them.

    Values are kept in float32, as in every event file.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.record_writer import RecordWriter

    begin, end = _session(entry)
    scalar = Summary.Value
    events = [Event(wall_time=entry.began, file_version="brain.Event:2")]
    events.append(Event(wall_time=entry.began, summary=Summary(value=[begin])))
    for tag, points in entry.curves.items():
        events += [
            Event(wall_time=at.when, step=at.step, summary=Summary(value=[scalar(tag=tag, simple_value=at.value)]))
            for at in points
        ]
    figures = [scalar(tag=tag, simple_value=value) for tag, value in entry.figures.items()]
    if entry.text:
        metadata = create_summary_metadata(display_name=None, description=None)
        figures.append(scalar(tag=entry.name, metadata=metadata, tensor=_text(entry.text)))
    events.append(Event(wall_time=entry.ended, summary=Summary(value=[*figures, end])))
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    for event in events:
        writer.write(event.SerializeToString())
    return buffer.getvalue()


def _session(entry: Entry) -> tuple[Any, Any]:
    """What the table of hyper-parameters is made of: that a session began, with its parameters, and that it ended."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import Status
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    start = SessionStartInfo(start_time_secs=entry.began)
    for name, value in entry.params.items():
        _set(start.hparams[name], value)
    end = SessionEndInfo(status=Status.Value("STATUS_SUCCESS"), end_time_secs=entry.ended)
    parts = (
        (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)),
        (metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)),
    )
    first, last = (
        Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
        for tag, data in parts
    )
    return first, last


def _set(slot: Any, value: Value) -> None:
    if isinstance(value, bool):
        slot.bool_value = value
    elif isinstance(value, str):
        slot.string_value = value
    else:
        slot.number_value = value


def _text(text: str) -> Any:
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.types_pb2 import DT_STRING

    return TensorProto(dtype=DT_STRING, string_val=[text.encode()])


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(".partial")  # TensorBoard looks for files with "tfevents" in their names
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StoreError(
            f"{str(path)!r} cannot be written: {error.strerror}; make room, then continue with --resume, with or "
            "without --log tensorboard"
        ) from error
