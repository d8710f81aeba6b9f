"""Progress bars: of the functions with a `progress` argument, and of `fastvi compile`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

#: Characters of a bar: with its words, one line of a terminal of 80.
_WIDTH = 40


def bar(steps: Any, show: bool, what: str, unit: str = "it") -> Iterable[Any]:
    """The steps of a loop; with a bar, if `show` and where tqdm is installed."""
    if show:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            pass
        else:
            return tqdm(steps, desc=what, unit=unit)  # type: ignore[no-any-return]
    return steps  # type: ignore[no-any-return]


@contextmanager
def share_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar for a terminal, for work that has no steps to count: a function of the share that is done."""

    def show(share: float) -> None:
        full = round(_WIDTH * share)
        line = f"\r{what} [{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%}"
        print(line, end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield lambda share: None
        return
    show(0.0)
    try:
        yield show
    finally:
        print(file=sys.stderr)
