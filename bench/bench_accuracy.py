"""The worst relative error of every divergence, against the references of the tests, in mpmath."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from fastvi.kernels.discrete import registry

from . import sizes
from .bench_arrays import ALPHA, CALLS, NAMES

REGIMES = sizes(
    "dirichlet 0.01", "dirichlet 1", "dirichlet 100", "close 1e-2", "close 1e-5", "close 1e-9", "wide"
)
DTYPES = ("float64", "float32")
ROWS, N = 3, 200


def _draw(regime, dtype):
    """Distributions as rows; two arrays."""
    rng = np.random.default_rng(7)
    kind, _, number = regime.partition(" ")
    if kind == "dirichlet":
        p, q = (rng.dirichlet(np.full(N, float(number)), ROWS) for _ in "pq")
    elif kind == "close":
        p = rng.dirichlet(np.ones(N), ROWS)
        q = p * (1 + float(number) * rng.uniform(-1, 1, p.shape))
    else:  # entries across the range of the exponents
        decades = 300 if dtype == "float64" else 35
        p, q = (10.0 ** rng.uniform(-decades, 0, (ROWS, N)) for _ in "pq")
    return tuple((a / a.sum(axis=1, keepdims=True)).astype(dtype) for a in (p, q))


def _exact(name, p, q):
    """The divergence of the normalised distributions, as the tests have it."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from reference.discrete import exact

    row = registry.ROWS[name]
    parameters = {"alpha": ALPHA} if row.orders else {}
    return exact(name, *(p, q)[: row.arrays], mass="normalize", **parameters)


class Error:
    params = (NAMES, DTYPES)
    param_names = ("function", "dtype")
    unit = "relative error"
    timeout = 300

    def setup_cache(self):
        exact = {}
        for name in self.params[0]:
            for dtype in DTYPES:
                for regime in REGIMES:
                    rows = zip(*_draw(regime, dtype), strict=True)
                    exact[name, dtype, regime] = [_exact(name, p, q) for p, q in rows]
        return exact

    setup_cache.timeout = 600

    def track_worst(self, exact, function, dtype):
        """The largest over all regimes."""
        return max(self._worst(exact, function, dtype, regime) for regime in REGIMES)

    def _worst(self, exact, function, dtype, regime):
        # Row by row: the kernels of whole tables would take another minute to compile.
        values = [CALLS[function](p, q) for p, q in zip(*_draw(regime, dtype), strict=True)]
        return max(map(_relative_error, values, exact[function, dtype, regime]))


def _relative_error(value, exact):
    import mpmath

    if exact == 0 or exact > sys.float_info.max:  # nothing but 0 and inf will do
        return 0.0 if value == float(exact) else math.inf

    with mpmath.workdps(50):
        return float(abs((mpmath.mpf(float(value)) - exact) / exact))
