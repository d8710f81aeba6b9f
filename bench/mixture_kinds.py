"""EM beside scikit-learn for each kind of covariances: ``python -m bench.mixture_kinds [kind ...]``.

From the same start, on the same data, as many M-steps; each line has the CPU seconds of both, each on one
thread, and their ratio. The starts are the centres of the data, moved, with unit covariances.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import fastvi as fv

from .em import clouds

POINTS, STEPS, CALLS = 100_000, 5, 2
DIMS, COMPONENTS = (2, 8, 30), (5, 30)
KINDS = ("full", "diag", "tied", "spherical")


def sklearn_steps(kind: str) -> Callable[[Any, fv.GaussianMixture], float]:
    """EM by scikit-learn: the mean log likelihood at the end."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    def fit(x: Any, start: fv.GaussianMixture) -> float:
        count, dim = start.means.shape
        precisions = {
            "full": np.array([np.eye(dim)] * count),
            "tied": np.eye(dim),
            "diag": np.ones((count, dim)),
            "spherical": np.ones(count),
        }
        options = {"weights_init": start.weights, "means_init": start.means, "covariance_type": kind}
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # that it has not converged to a tolerance of 0
            made = GaussianMixture(
                count, tol=0.0, max_iter=STEPS, reg_covar=0.0, precisions_init=precisions[kind], **options
            )
            return float(made.fit(x).lower_bound_)

    return fit


def fastvi_steps(kind: str) -> Callable[[Any, fv.GaussianMixture], float]:
    """The same by fastvi; scikit-learn gives the log likelihood before its last M-step."""

    def fit(x: Any, start: fv.GaussianMixture) -> float:
        count = start.weights.size
        options: dict[str, Any] = {"covariance": kind, "tol": 0.0, "max_iterations": STEPS}
        return float(fv.fit_mixture(x, count, start=start, **options).trace[-2] / len(x))

    return fit


def fastest(call: Callable[[], float]) -> tuple[float, float]:
    """(CPU seconds of the fastest call, its value)."""
    seconds, value = np.inf, np.nan
    for _ in range(CALLS):
        start = time.process_time()
        value = call()
        seconds = min(seconds, time.process_time() - start)
    return seconds, value


def main(kinds: tuple[str, ...]) -> None:
    """Print the table."""
    print(f"{STEPS} steps of EM on {POINTS:,} points")
    print(f"{'kind':10}{'d':>4}{'k':>4}{'fastvi':>12}{'scikit-learn':>14}{'ratio':>8}{'difference':>12}")
    for kind in kinds:
        for dim in DIMS:
            for count in COMPONENTS:
                x, start = clouds(POINTS, count, dim)
                ours, mine = fastest(lambda x=x, start=start, kind=kind: fastvi_steps(kind)(x, start))
                try:
                    theirs, value = fastest(lambda x=x, start=start, kind=kind: sklearn_steps(kind)(x, start))
                except ImportError:
                    theirs, value = np.nan, np.nan
                line = f"{kind:10}{dim:4}{count:4}{ours:10.3f} s{theirs:12.3f} s{theirs / ours:8.1f}"
                print(line + f"{abs(mine - value):12.0e}", flush=True)


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or KINDS)
