"""Laws of reading ahead: the same items and errors in the same places, one item ready at most."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists, none

from frostline.data.ahead import ahead


@given(lists(integers() | none(), max_size=20))
def test_items_come_as_they_are_and_in_their_order(items: list[int | None]) -> None:
    assert list(ahead(iter(items))) == items


def test_the_next_item_is_made_while_the_first_is_used_and_no_other() -> None:
    made, second = list[int](), threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    coming = ahead(items())
    assert next(coming) == 0
    assert second.wait(10)  # nobody asked for it yet
    assert made == [0, 1]
    assert list(coming) == [1, 2, 3, 4]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the disk is gone")

    coming = ahead(items())
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_who_stops_asking_leaves_no_thread_behind() -> None:
    def others() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("ahead")}

    coming = ahead(iter(range(9)))
    next(coming)
    assert len(others()) == 1
    coming.close()
    assert not others()
