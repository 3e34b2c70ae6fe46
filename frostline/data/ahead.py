"""The next item is made while the one at hand is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Generator[T]:
    """The same items in the same order, each made by one thread while its predecessor is used: one lies ready at most.

    Worth its switches where making an item waits (for a disk) or runs outside the interpreter (decoding, copying). An
    error comes where its item would have come. Whoever stops asking waits for the item that is being made.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        coming = thread.submit(_next, items)
        while (made := coming.result()) is not None:
            coming = thread.submit(_next, items)
            yield made[0]


def _next(items: Iterator[T]) -> tuple[T] | None:
    """The next item in a tuple, which tells an item that is None from the end."""
    for item in items:
        return (item,)
    return None
