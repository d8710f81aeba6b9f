"""The progress bar of the functions with a `progress` argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


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
