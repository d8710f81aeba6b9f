"""Every function of arrays on every kind of input: ``python -m bench.kinds``, or with names of functions.

Times are of one thread. For each function and kind the table has the time of an entry, its ratio to the time
on arrays whose sums are exactly one ("exact sums"), and the ratio to fastvi of the line that NumPy or SciPy
has for the same input. The three take turns, and the minimum of each counts.
"""

from __future__ import annotations

import argparse
import functools
import time
import timeit
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import entr, logsumexp, rel_entr

import fastvi as fv
from fastvi.kernels.discrete.registry import ROWS

from .peers import circumstances

N = 100_000
ALPHA = 2.5
SLICE = 0.002  #: seconds: short calls are repeated for so long
SECONDS = 0.15  #: of a function and kind, at least
ROUNDS = 7  #: at least


class Kind(NamedTuple):
    """Arguments of one kind."""

    make: Callable[[np.random.Generator], tuple[Any, Any]]
    mass: str = "unit"
    log: bool = False


def _exact(weights):
    """Multiples of 2**-52 with the sum one."""
    units = np.round(weights / weights.sum(-1, keepdims=True) * 2.0**52)
    rest = 2.0**52 - units.sum(-1, keepdims=True)
    np.put_along_axis(units, units.argmax(-1, keepdims=True), units.max(-1, keepdims=True) + rest, -1)
    return units * 2.0**-52


def _random(rng, shape=N):
    return _exact(rng.random(shape) + 1e-9), _exact(rng.random(shape) + 1e-9)


def _dirichlet(alpha):
    def make(rng):
        return rng.dirichlet(np.full(N, alpha)), rng.dirichlet(np.full(N, alpha))

    return make


def _near(rng):
    q = rng.random(N)
    return q * (1.0 + 1e-9 * rng.normal(size=N)), q


def _one_zero(rng):
    p, q = rng.random(N), rng.random(N)
    q[N // 3] = 0.0
    return p / p.sum(), q / q.sum()


def _sparse(rng):
    p, q = rng.random(N), rng.random(N)
    zeros = rng.random(N) < 0.9
    p[zeros] = q[zeros] = 0.0
    p[rng.random(N) < 0.3] = 0.0
    return p / p.sum(), q / q.sum()


def _one_hot(rng):
    p = np.zeros(N)
    p[N // 2] = 1.0
    return p, _random(rng)[1]


def _spread(rng):
    p, q = np.exp(50.0 * rng.normal(size=N)), np.exp(50.0 * rng.normal(size=N))
    return p / p.sum(), q / q.sum()


def _logs(make):
    def logs(rng):
        with np.errstate(divide="ignore"):
            p, q = (np.log(a) for a in make(rng))
        return p - logsumexp(p), q - logsumexp(q)

    return logs


def _as(dtype):
    return lambda rng: tuple(a.astype(dtype) for a in _random(rng))


def _strided(rng):
    return tuple(np.repeat(a, 2)[::2] for a in _random(rng))


def _rows(width):
    return lambda rng: _random(rng, (N // width, width))


def _other_rows(width):
    return lambda rng: (rng.random((N // width, width)), rng.random((N // width, width)))


def _counts(rng):
    return rng.poisson(20.0, N), rng.poisson(20.0, N) + 1


KINDS = {
    "exact sums": Kind(_random),
    "Dirichlet draws": Kind(_dirichlet(1.0)),
    "Dirichlet draws, 0.05": Kind(_dirichlet(0.05), "normalize"),
    "other masses": Kind(lambda rng: (3.0 * rng.random(N), rng.random(N)), "normalize"),
    "int64 counts": Kind(_counts, "normalize"),
    "proportional": Kind(lambda rng: (lambda q: (3.0 * q, q))(rng.random(N)), "normalize"),
    "p near q": Kind(_near, "normalize"),
    "one zero in q": Kind(_one_zero),
    "90 % zeros": Kind(_sparse),
    "one-hot": Kind(_one_hot),
    "e**N(0, 50)": Kind(_spread),
    "log": Kind(_logs(_random), log=True),
    "log, other masses": Kind(lambda rng: tuple(a + 3.0 for a in _logs(_random)(rng)), "normalize", True),
    "log with -inf": Kind(_logs(_sparse), log=True),
    "log softmax, 100": Kind(lambda rng: tuple(100.0 * rng.normal(size=(2, N))), "normalize", True),
    "float32": Kind(_as(np.float32)),
    "float32, other masses": Kind(
        lambda rng: tuple(m * a for m, a in zip((7, 3), _as(np.float32)(rng), strict=True)), "normalize"
    ),
    "float16": Kind(lambda rng: tuple(rng.random((2, N)).astype(np.float16)), "normalize"),
    "strided": Kind(_strided),
    "reversed": Kind(lambda rng: tuple(a[::-1] for a in _random(rng))),
    **{f"rows of {width}": Kind(_rows(width)) for width in (2, 4, 8, 64)},
    **{f"rows of {width}, normalize": Kind(_other_rows(width), "normalize") for width in (2, 4, 8, 64)},
}


# What NumPy and SciPy have in one line, for arrays that are distributions.

_PEERS: dict[str, Callable[[Any, Any], Any]] = {
    "kl": lambda p, q: rel_entr(p, q).sum(-1),
    "cross_entropy": lambda p, q: -(p * np.log(q)).sum(-1),
    "entropy": lambda p, q: entr(p).sum(-1),
    "js": lambda p, q: (rel_entr(p, (m := 0.5 * (p + q))) + rel_entr(q, m)).sum(-1) / 2,
    "js_distance": lambda p, q: jensenshannon(p, q, axis=-1),
    "jeffreys": lambda p, q: ((p - q) * np.log(p / q)).sum(-1),
    "hellinger": lambda p, q: np.sqrt(0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum(-1)),
    "total_variation": lambda p, q: 0.5 * np.abs(p - q).sum(-1),
    "chi2": lambda p, q: ((p - q) ** 2 / q).sum(-1),
    "bhattacharyya": lambda p, q: -np.log(np.sqrt(p * q).sum(-1)),
    "renyi": lambda p, q: np.log((p**ALPHA * q ** (1 - ALPHA)).sum(-1)) / (ALPHA - 1),
    "renyi, inf": lambda p, q: np.log((p / q).max(-1)),
    "alpha_divergence": lambda p, q: ((p**ALPHA * q ** (1 - ALPHA)).sum(-1) - 1) / (ALPHA * (ALPHA - 1)),
}


def _peer(name: str, p: Any, q: Any, kind: Kind) -> Any:
    if kind.log:
        p, q = np.exp(p), np.exp(q)
    if kind.mass == "normalize":
        p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return _PEERS[name](p, q)


def call(name: str, p: Any, q: Any, kind: Kind) -> Callable[[], Any]:
    """A call of a function without arguments; "renyi, inf" is the order infinity."""
    function = getattr(fv, name.partition(",")[0])
    row = ROWS[function.__name__]
    keywords: dict[str, Any] = {"mass": kind.mass, "log": kind.log}
    if row.orders:
        keywords["alpha"] = np.inf if name.endswith("inf") else ALPHA
    return functools.partial(function, *(p, q)[: row.arrays], **keywords)


FUNCTIONS = tuple(_PEERS)


@functools.lru_cache(maxsize=4)
def arguments(kind: str) -> tuple[Any, Any]:
    return KINDS[kind].make(np.random.default_rng(20261126))


class Measured(NamedTuple):
    seconds: float
    exact: float  #: on exact sums
    peer: float
    exponentials: float  #: of both arrays by NumPy, where they are logarithms


def measure(name: str, kind: str) -> Measured:
    """The least times of a call, of the same on exact sums, of the peer, and of two calls of `np.exp`."""
    p, q = arguments(kind)
    calls = [
        call(name, p, q, KINDS[kind]),
        call(name, *arguments("exact sums"), KINDS["exact sums"]),
        lambda: _peer(name, p, q, KINDS[kind]),
    ]
    if KINDS[kind].log:
        calls.append(lambda: (np.exp(p), np.exp(q)))
    timers = [timeit.Timer(one) for one in calls]
    numbers = [max(1, int(SLICE / min(timer.repeat(2, 1)))) for timer in timers]
    best = [np.inf] * len(timers)
    end = time.perf_counter() + SECONDS
    rounds = 0
    while rounds < ROUNDS or time.perf_counter() < end:
        rounds += 1
        for i, (timer, number) in enumerate(zip(timers, numbers, strict=True)):
            best[i] = min(best[i], timer.timeit(number) / number)
    return Measured(best[0], best[1], best[2], best[3] if len(best) == 4 else 0.0)


def slowdown(measured: Measured) -> float:
    """The time, as a multiple of that on exact sums and of the exponentials that logarithms need."""
    return measured.seconds / (measured.exact + measured.exponentials)


def _row_width(kind: str) -> int:
    """The length of the rows of a kind; 0 for one array."""
    return int(kind.split(",")[0].removeprefix("rows of ")) if kind.startswith("rows of") else 0


def _worst(name: str, results: dict[str, Measured]) -> str:
    """One line of the summary, each cell with the kind that it is of."""
    short = [kind for kind in results if 0 < _row_width(kind) <= 8]
    long = [kind for kind in results if kind not in short]

    def cell(kinds: list[str], value: Callable[[str], float], digits: int, pick: Any = max) -> str:
        if not kinds:
            return ""
        kind = pick(kinds, key=value)
        return f"{value(kind):.{digits}f} ({kind})"

    return " | ".join(
        (
            f"| {name}",
            cell([kind for kind in long if not KINDS[kind].log], lambda kind: slowdown(results[kind]), 1),
            cell([kind for kind in long if KINDS[kind].log], lambda kind: slowdown(results[kind]), 1),
            cell(short, lambda kind: results[kind].seconds / N * 1e9 * _row_width(kind), 0),
            cell(long, lambda kind: results[kind].peer / results[kind].seconds, 1, min) + " |",
        )
    )


def report(functions: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    worst = []
    for name in functions:
        print(f"\n| {name} | ns an entry | x exact sums | NumPy / fastvi |\n| --- | --- | --- | --- |")
        results = {kind: measure(name, kind) for kind in kinds}
        for kind, one in results.items():
            cells = f"{one.seconds / N * 1e9:.2f} | {slowdown(one):.2f} | {one.peer / one.seconds:.1f}"
            print(f"| {kind} | {cells} |")
        worst.append(_worst(name, results))
    print("\n| function | x exact sums | logarithms | ns a row of 2 to 8 | least NumPy / fastvi |")
    print("\n".join(["| --- | --- | --- | --- | --- |", *worst]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="functions or kinds; all without")
    names = parser.parse_args().names
    functions = tuple(name for name in FUNCTIONS if name in names) or FUNCTIONS
    kinds = tuple(kind for kind in KINDS if kind in names) or tuple(KINDS)
    numba.set_num_threads(1)
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"):
        report(functions, kinds)
    print(f"\n{circumstances()}")


if __name__ == "__main__":
    main()
