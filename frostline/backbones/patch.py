"""Temporary changes to a module: each is undone on every way out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def patched(forwards: Iterable[tuple[nn.Module, Forward]]) -> Generator[None]:
    """These instances run these functions in place of their own `forward`."""
    before: list[tuple[nn.Module, tuple[Any, ...]]] = []
    try:
        for module, forward in forwards:
            own = module.__dict__
            before.append((module, (own["forward"],) if "forward" in own else ()))
            own["forward"] = forward
        yield
    finally:
        for module, forward in reversed(before):
            if forward:
                module.__dict__["forward"] = forward[0]
            else:
                module.__dict__.pop("forward", None)


@contextmanager
def calmed(modules: Iterable[nn.Module]) -> Generator[None]:
    """These modules are in eval mode; their children are left alone."""
    before = [(module, module.training) for module in modules]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def without_cache(module: nn.Module) -> Generator[None]:
    """Keys and values of past tokens are not kept: they are no part of the result that counts."""
    config: Any = getattr(module, "config", None)
    if config is None or isinstance(config, Mapping) or not getattr(config, "use_cache", False):
        yield
        return
    before = config.use_cache
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before
