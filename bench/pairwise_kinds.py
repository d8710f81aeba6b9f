"""`fastvi.pairwise` on every kind of rows: ``python -m bench.pairwise_kinds``, or with names of metrics.

Each row of the table is a metric and a kind of input: its time, that over the time of Dirichlet draws (the
clean case), and how many times faster it is than NumPy's product, which loses the digits of similar rows, and
than `scipy.spatial.distance.cdist`, where these have the metric. One thread, in one process; contenders run
alternately, and the least CPU time of each counts.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import fastvi as fv
from fastvi.kernels.discrete.registry import METRICS

Rows = NDArray[np.float64]

ROUNDS = 9
SHAPE = 300, 200, 256

#: The order of the metrics that have one.
ORDER = 0.7

#: The kind whose time the others are divided by.
CLEAN = "Dirichlet(1)"


def _unit(x: Rows) -> Rows:
    return x / x.sum(axis=1, keepdims=True)


def _near(rng: np.random.Generator, base: Rows, size: float, n: int) -> Rows:
    return _unit(base * (1.0 + size * rng.uniform(-1.0, 1.0, (n, base.shape[-1]))))


def _with_zeros(rng: np.random.Generator, x: Rows, part: float) -> Rows:
    return _unit(np.where(rng.random(x.shape) < part, 0.0, x))


def _clusters(rng: np.random.Generator, n: int, m: int, d: int) -> tuple[Rows, Rows]:
    centres = rng.dirichlet(np.ones(d), 10)
    p, q = (centres[rng.integers(0, 10, k)] for k in (n, m))
    return _near(rng, p, 1e-3, n), _near(rng, q, 1e-3, m)


def _kinds(n: int, m: int, d: int) -> dict[str, Callable[[np.random.Generator], tuple[Rows, Rows]]]:
    def both(draw: Callable[[np.random.Generator, int], Rows]) -> Any:
        return lambda rng: (draw(rng, n), draw(rng, m))

    def similar(size: float) -> Any:
        def draw(rng: np.random.Generator) -> tuple[Rows, Rows]:
            base = rng.dirichlet(np.ones(d), 1)
            return _near(rng, base, size, n), _near(rng, base, size, m)

        return draw

    def dirichlet(rng: np.random.Generator, k: int, a: float = 1.0) -> Rows:
        return rng.dirichlet(np.full(d, a), k)

    def outlier(rng: np.random.Generator) -> tuple[Rows, Rows]:
        p, q = similar(1e-6)(rng)
        q[-1] = rng.dirichlet(np.ones(d))
        return p, q

    def shared_zeros(rng: np.random.Generator) -> tuple[Rows, Rows]:
        where = rng.random(d) < 0.2
        return tuple(_unit(np.where(where, 0.0, x)) for x in similar(0.1)(rng))  # type: ignore[return-value]

    def float32(rng: np.random.Generator) -> tuple[Any, Any]:
        return dirichlet(rng, n).astype(np.float32), dirichlet(rng, m).astype(np.float32)

    return {
        CLEAN: both(dirichlet),
        "Poisson(20) counts": both(lambda rng, k: rng.poisson(20.0, (k, d)).astype(float)),
        "Poisson(2) + 1 counts": both(lambda rng, k: rng.poisson(2.0, (k, d)) + 1.0),
        "within 10 %": similar(0.1),
        "within 1e-4": similar(1e-4),
        "within 1e-7": similar(1e-7),
        "all equal": lambda rng: (np.tile(rng.dirichlet(np.ones(d)), (n, 1)),) * 2,
        "softmax of N(0, 1)": both(lambda rng, k: _unit(np.exp(rng.normal(size=(k, d))))),
        "Dirichlet(0.1)": both(lambda rng, k: dirichlet(rng, k, 0.1)),
        "2 % zeros": both(lambda rng, k: _with_zeros(rng, dirichlet(rng, k), 0.02)),
        "zeros in p": lambda rng: (_with_zeros(rng, dirichlet(rng, n), 0.02), dirichlet(rng, m)),
        "shared zeros, 10 %": shared_zeros,
        "one-hot": both(lambda rng, k: np.eye(d)[rng.integers(0, d, k)]),
        "within 1e-6, an outlier": outlier,
        "10 clusters within 1e-3": lambda rng: _clusters(rng, n, m, d),
        "float32": float32,
    }


#: Kinds of rows: each a function of a generator that gives P and Q.
KINDS = _kinds(*SHAPE)


def kind(name: str) -> tuple[Rows, Rows, str]:
    """P, Q and the `mass` of a kind."""
    p, q = KINDS[name](np.random.default_rng(16))
    return p, q, "normalize" if "counts" in name else "unit"


def _entropy(x: Rows) -> Rows:
    return np.where(x > 0.0, x * np.log(x), 0.0).sum(axis=1)


def _product(metric: str) -> Callable[[Rows, Rows], Rows] | None:
    """What one writes with NumPy: one or two matrix products."""
    a = ORDER
    lines: dict[str, Callable[[Rows, Rows], Rows]] = {
        "kl": lambda x, y: _entropy(x)[:, None] - x @ np.log(y).T,
        "cross_entropy": lambda x, y: -(x @ np.log(y).T),
        "jeffreys": lambda x, y: (
            (_entropy(x)[:, None] - x @ np.log(y).T) + (_entropy(y)[:, None] - y @ np.log(x).T).T
        ),
        "hellinger": lambda x, y: np.sqrt(np.maximum(1.0 - np.sqrt(x) @ np.sqrt(y).T, 0.0)),
        "bhattacharyya": lambda x, y: -np.log(np.sqrt(x) @ np.sqrt(y).T),
        "chi2": lambda x, y: x**2 @ (1.0 / y).T - 1.0,
        "renyi": lambda x, y: np.log(x**a @ (y ** (1.0 - a)).T) / (a - 1.0),
        "alpha_divergence": lambda x, y: (x**a @ (y ** (1.0 - a)).T - 1.0) / (a * (a - 1.0)),
    }
    return lines.get(metric)


def _cdist(metric: str) -> Callable[[Rows, Rows], Rows] | None:
    return {
        "js_distance": lambda x, y: cdist(x, y, "jensenshannon"),
        "js": lambda x, y: cdist(x, y, "jensenshannon") ** 2,
        "hellinger": lambda x, y: cdist(np.sqrt(x), np.sqrt(y)) * math.sqrt(0.5),
        "total_variation": lambda x, y: 0.5 * cdist(x, y, "cityblock"),
    }.get(metric)


def keywords(metric: str) -> dict[str, float]:
    return {"alpha": ORDER} if METRICS[metric].orders else {}


def least(calls: list[Callable[[], Any]], rounds: int = ROUNDS) -> list[float]:
    """The least CPU time of each call in seconds, called in turn."""
    times = [math.inf] * len(calls)
    with np.errstate(all="ignore"):
        for call in calls:
            call()
        for _ in range(rounds):
            for k, call in enumerate(calls):
                start = time.process_time()
                call()
                times[k] = min(times[k], time.process_time() - start)
    return times


def measure(metric: str, name: str) -> dict[str, float]:
    """Seconds of fastvi and of its peers."""
    p, q, mass = kind(name)
    calls = {"fastvi": lambda: fv.pairwise(p, q, metric, mass=mass, **keywords(metric))}
    for peer, line in (("product", _product(metric)), ("cdist", _cdist(metric))):
        if line:
            # Counts are normalised by the peers as well.
            made = (
                (lambda f: lambda: f(_unit(p), _unit(q))) if mass != "unit" else (lambda f: lambda: f(p, q))
            )
            calls[peer] = made(line)
    rounds = 3 if "cdist" in calls else ROUNDS
    return dict(zip(calls, least(list(calls.values()), rounds), strict=True))


def half(metric: str) -> float:
    """The time of ``pairwise(P)`` over that of ``pairwise(P, P.copy())``."""
    p = kind(CLEAN)[0]
    copy = p.copy()
    one, two = least([lambda: fv.pairwise(p, metric=metric), lambda: fv.pairwise(p, copy, metric)])
    return one / two


def main() -> None:
    from .peers import circumstances  # imports all peers, which asv has no need of

    numba.set_num_threads(1)
    chosen = [name for name in METRICS if not sys.argv[1:] or name in sys.argv[1:]]
    n, m, d = SHAPE
    print(f"{n} x {m} rows of {d}.\n")
    print("| metric | kind | ms | over the clean case | NumPy's product | cdist |")
    print("| --- | --- | --- | --- | --- | --- |")
    for metric in chosen:
        clean = 0.0
        for name in KINDS:
            times = measure(metric, name)
            ours = times["fastvi"]
            clean = clean or ours
            ratios = (f"{times[peer] / ours:.2f}" if peer in times else "" for peer in ("product", "cdist"))
            print(
                f"| {metric} | {name} | {1e3 * ours:.2f} | {ours / clean:.2f} | {' | '.join(ratios)} |",
                flush=True,
            )
        if METRICS[metric].symmetric:
            print(f"| {metric} | P with itself | | {half(metric):.2f} of P with a copy | | |", flush=True)
    print(f"\n{circumstances()}")


if __name__ == "__main__":
    main()
