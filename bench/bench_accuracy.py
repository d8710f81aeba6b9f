"""The worst relative error of every divergence, against mpmath with 50 digits."""

from __future__ import annotations

import math
import sys

import numpy as np

from .bench_arrays import CALLS

REGIMES = ("dirichlet 0.01", "dirichlet 1", "dirichlet 100", "close 1e-2", "close 1e-5", "close 1e-9", "wide")
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
    """The divergence of the normalised distributions, as one would write it down."""
    from mpmath import fsum, inf, log, mpf, sqrt

    def kl(p, q):
        return fsum(inf if b == 0 else a * log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    def power(alpha):
        terms = zip(p, q, strict=True)
        return fsum(inf if b == 0 else a**alpha * b ** (1 - alpha) for a, b in terms if a > 0)

    p, q = [mpf(float(x)) for x in p], [mpf(float(x)) for x in q]
    sum_p, sum_q = fsum(p), fsum(q)
    p, q = [x / sum_p for x in p], [x / sum_q for x in q]
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    pairs = list(zip(p, q, strict=True))
    alpha = mpf("2.5")
    match name:
        case "entropy":
            return -fsum(a * log(a) for a in p if a > 0)
        case "cross_entropy":
            return fsum(inf if b == 0 else -a * log(b) for a, b in pairs if a > 0)
        case "kl":
            return kl(p, q)
        case "js":
            return (kl(p, m) + kl(q, m)) / 2
        case "jeffreys":
            return kl(p, q) + kl(q, p)
        case "hellinger":
            return sqrt(fsum((sqrt(a) - sqrt(b)) ** 2 for a, b in pairs) / 2)
        case "total_variation":
            return fsum(abs(a - b) for a, b in pairs) / 2
        case "chi2":
            return fsum(inf if b == 0 else (a - b) ** 2 / b for a, b in pairs if a != b)
        case "bhattacharyya":
            return -log(fsum(sqrt(a * b) for a, b in pairs))
        case "renyi":
            return log(power(alpha)) / (alpha - 1)
        case "alpha_divergence":
            return (power(alpha) - 1) / (alpha * (alpha - 1))
    raise AssertionError(name)


class Error:
    params = (tuple(name for name in CALLS if name != "kl_grad"), DTYPES)
    param_names = ("function", "dtype")
    unit = "relative error"
    timeout = 300

    def setup_cache(self):
        import mpmath

        exact = {}
        with mpmath.workdps(50):
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
