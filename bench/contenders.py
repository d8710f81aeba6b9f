"""Comparisons and contenders: a piece of work, as fastvi and its peers do it, and the ratio aimed at."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np


def relative_error(value: Any, exact: Any) -> float:
    """The largest relative error of a result."""
    return float(np.max(np.abs((np.asarray(value, np.longdouble) - exact) / exact)))


@dataclass(frozen=True)
class Peer:
    """A competitor, and the ratio of its time to fastvi's that is wanted for each number of `threads`."""

    name: str
    load: Callable[[], Callable[..., Any]]
    wanted: tuple[float, ...] = ()
    same_result: bool = True  #: False for a peer that only shows a limit of the machine


@dataclass(frozen=True)
class Contender:
    name: str
    load: Callable[[], Callable[..., Any]]
    threads: int = 1
    same_result: bool = True


@dataclass(frozen=True)
class Comparison:
    work: str
    inputs: Callable[[], tuple[Any, ...]]
    exact: Callable[..., Any]
    fastvi: Callable[[], Callable[..., Any]]
    peers: tuple[Peer, ...]
    threads: tuple[int, ...] = (1,)
    error: Callable[[Any, Any], float] = relative_error

    def contenders(self) -> list[Contender]:
        ours = [Contender(ours_on(threads), self.fastvi, threads) for threads in self.threads]
        return ours + [Contender(peer.name, peer.load, 1, peer.same_result) for peer in self.peers]


def ours_on(threads: int) -> str:
    return "fastvi" if threads == 1 else f"fastvi, {threads} threads"


class UnavailableError(Exception):
    """A contender cannot run here."""


def ready(contender: Contender) -> Callable[..., Any]:
    """The function to time, with the number of threads set."""
    try:
        function = contender.load()
    except ImportError as error:
        raise UnavailableError(f"not installed: {error.name}") from None
    use_threads(contender)
    return function


def use_threads(contender: Contender) -> None:
    if contender.threads > numba.config.NUMBA_NUM_THREADS:
        raise UnavailableError(f"this machine has no {contender.threads} threads")
    numba.set_num_threads(contender.threads)


@functools.lru_cache(maxsize=1)
def prepared(comparison: Comparison) -> tuple[tuple[Any, ...], Any]:
    """Inputs and their accurate result; only the last ones are kept, because they are large."""
    arguments = comparison.inputs()
    return arguments, comparison.exact(*arguments)


def error_of(comparison: Comparison, contender: Contender, value: Any, exact: Any) -> float | None:
    """The error of a result, by the measure of the comparison."""
    return comparison.error(value, exact) if contender.same_result else None
