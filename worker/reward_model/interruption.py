"""Interrupt the computation of a model: a batch may take minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def checked_before_modules(check: Callable[[], None]) -> Iterator[None]:
    """Call ``check`` before any module of any model computes; it may raise to interrupt it."""
    handle = register_module_forward_pre_hook(lambda *_: check())
    try:
        yield
    finally:
        handle.remove()
