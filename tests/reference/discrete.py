"""Slow, obvious versions of every divergence: the formulas of the docstrings in mpmath.

Each float is taken exactly. The precision is 50 digits and as many more as the entries span orders of
magnitude, so that 1 + 5e-324 is not 1 here. The formulas are the generalised ones for measures, which
are the usual ones when both arguments sum to one.
"""

import math
import sys

import numpy as np
from mpmath import mp, mpf

LARGEST = mpf(sys.float_info.max)
QUANTUM = mpf(5e-324)


def _digits(*arrays):
    """Enough to leave 50 digits where terms cancel: in p near q, orders near 1, entries of all sizes."""
    sizes = [mp.mag(x) for array in arrays for x in array if x > 0]  # binary exponents
    return 100 + (math.ceil((max(sizes) - min(sizes)) * math.log10(2)) if sizes else 0)


def _exact(array, log):
    values = [mpf(float(x)) for x in np.asarray(array).ravel()]
    return [mp.exp(x) for x in values] if log else values


def _xlog(x, ratio):
    return mpf(0) if x == 0 else x * mp.log(ratio)


def _divided(x, y):
    return x / y if y != 0 else mp.inf


def entropy(p):
    return -mp.fsum(_xlog(x, x) for x in p)


def cross_entropy(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mp.inf
    return -mp.fsum(_xlog(x, y) for x, y in zip(p, q, strict=True))


def kl(p, q):
    if any(x > 0 and y == 0 for x, y in zip(p, q, strict=True)):
        return mp.inf
    return mp.fsum(_xlog(x, _divided(x, y)) - x + y for x, y in zip(p, q, strict=True))


def js(p, q, weights=(0.5, 0.5)):
    u, v = (mpf(float(w)) for w in weights)
    m = [u * x + v * y for x, y in zip(p, q, strict=True)]
    return mp.fsum(
        u * _xlog(x, _divided(x, z)) + v * _xlog(y, _divided(y, z)) for x, y, z in zip(p, q, m, strict=True)
    )


def js_distance(p, q, weights=(0.5, 0.5)):
    return mp.sqrt(js(p, q, weights))


def jeffreys(p, q):
    return kl(p, q) + kl(q, p)


def hellinger(p, q):
    return mp.sqrt(mp.fsum((mp.sqrt(x) - mp.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True)) / 2)


def total_variation(p, q):
    return mp.fsum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2


def chi2(p, q):
    return mp.fsum(_divided((x - y) ** 2, y) for x, y in zip(p, q, strict=True) if x != y)


def bhattacharyya(p, q):
    overlap = mp.fsum(mp.sqrt(x * y) for x, y in zip(p, q, strict=True))
    return -mp.log(overlap) if overlap > 0 else mp.inf


def _power(x, y, a):
    """x**a y**(1 - a) with its limits at zero."""
    if x == 0 and y == 0:
        return mpf(0)
    if x == 0:
        return mpf(0) if a > 0 else (y if a == 0 else mp.inf)
    if y == 0:
        return mpf(0) if a < 1 else (x if a == 1 else mp.inf)
    return x**a * y ** (1 - a)


def renyi(p, q, alpha):
    a = mpf(float(alpha))
    pairs = list(zip(p, q, strict=True))
    if a == 1:
        return kl(p, q)
    if a == mp.inf:
        return mp.log(max(_divided(x, y) for x, y in pairs if x > 0))
    if a == 0:
        missing = mp.fsum(y for x, y in pairs if x == 0)
        return -mp.log1p(-missing) if any(x > 0 and y > 0 for x, y in pairs) else mp.inf
    total = mp.fsum(_power(x, y, a) for x, y in pairs)
    if total == 0 or total == mp.inf:
        return mp.inf
    return mp.log(total) / (a - 1)


def alpha_divergence(p, q, alpha):
    a = mpf(float(alpha))
    if a == 1:
        return kl(p, q)
    if a == 0:
        return kl(q, p)
    return mp.fsum(_power(x, y, a) - a * x + (a - 1) * y for x, y in zip(p, q, strict=True)) / (a * (a - 1))


def exact(name, *arrays, mass="unit", log=False, **parameters):
    """The value of the divergence `name` for exactly these floats."""
    with mp.workdps(50):
        digits = _digits(*(_exact(a, log) for a in arrays))
    with mp.workdps(digits):
        measures = [_exact(a, log) for a in arrays]
        if mass != "any":
            sums = [mp.fsum(m) for m in measures]
            measures = [[x / s for x in m] for m, s in zip(measures, sums, strict=True)]
        return globals()[name](*measures, **parameters)


def relative_error(value, expected):
    """|value / expected - 1|, with what a float cannot hold forgiven: overflow, the last subnormal digit."""
    if math.isnan(value):
        return math.inf
    if expected > LARGEST:
        return 0.0 if value == math.inf or value > sys.float_info.max * (1 - 1e-13) else math.inf
    if value == math.inf:
        return math.inf
    with mp.workdps(60):
        off = abs(mpf(float(value)) - expected)
        if expected < QUANTUM:
            return 0.0 if off <= QUANTUM else math.inf
        return float(max(off - QUANTUM, 0) / expected)


def _matrix(array):
    return mp.matrix([[mpf(float(x)) for x in row] for row in np.atleast_2d(array)])


def _column(array):
    return mp.matrix([mpf(float(x)) for x in np.ravel(array)])


def gaussian_logpdf(z, mean, cov):
    """log N(z | mean, cov) for exactly these floats."""
    with mp.workdps(50):
        sigma, d = _matrix(cov), _column(z) - _column(mean)
        square = (d.T * mp.lu_solve(sigma, d))[0]
        return -(square + mp.log(mp.det(2 * mp.pi * sigma))) / 2


def mixture_logpdf(z, weights, means, covs):
    """log of the density for exactly these floats, with the weights divided by their sum."""
    with mp.workdps(50):
        total = mp.fsum(mpf(float(w)) for w in weights)
        return mp.log(
            mp.fsum(
                mpf(float(w)) / total * mp.exp(gaussian_logpdf(z, m, c))
                for w, m, c in zip(weights, means, covs, strict=True)
                if w > 0
            )
        )


def _gaussian_kl(d, sigma_p, sigma_q):
    trace = sum((mp.lu_solve(sigma_q, sigma_p[:, i])[i] for i in range(d.rows)), mpf(0))
    square = (d.T * mp.lu_solve(sigma_q, d))[0]
    return (trace - d.rows + square + mp.log(mp.det(sigma_q) / mp.det(sigma_p))) / 2


def gaussian_kl(mean_p, cov_p, mean_q, cov_q):
    """KL of two Gaussians given by their covariances, Bishop (2006), exercise 2.13; exactly these floats."""
    with mp.workdps(80):
        return _gaussian_kl(_column(mean_p) - _column(mean_q), _matrix(cov_p), _matrix(cov_q))


def gaussian_kl_of_factors(mean_p, chol_p, mean_q, chol_q):
    """KL of two Gaussians given by their Cholesky factors: what a rounded factor means, exactly."""
    with mp.workdps(80):
        p, q = _matrix(chol_p), _matrix(chol_q)
        return _gaussian_kl(_column(mean_p) - _column(mean_q), p * p.T, q * q.T)


def gaussian_entropy(cov):
    with mp.workdps(50):
        return mp.log(mp.det(2 * mp.pi * mp.e * _matrix(cov))) / 2


def mixture_integral_1d(p, q=None):
    """E_p[log p - log q], or E_p[log p], in one dimension, by mpmath: p, q = (weights, means, variances)."""

    def log_density(z, mixture):
        rows = [[mpf(float(x)) for x in row] for row in zip(*mixture, strict=True)]
        return mp.log(
            mp.fsum(w / mp.sqrt(2 * mp.pi * v) * mp.exp(-((z - m) ** 2) / (2 * v)) for w, m, v in rows)
        )

    with mp.workdps(20):
        total = mpf(0)
        for w, m, v in zip(*p, strict=True):
            sd = mp.sqrt(mpf(float(v)))

            def integrand(xi, m=m, sd=sd):
                z = mpf(float(m)) + sd * xi
                return mp.npdf(xi) * (log_density(z, p) - (log_density(z, q) if q is not None else 0))

            # Every component of either mixture has panels of its own width.
            edges = {mpf(k) for k in range(-11, 12, 2)}
            for mixture in (p, q) if q is not None else (p,):
                for _, other, variance in zip(*mixture, strict=True):
                    for k in (-8, -4, -2, 0, 2, 4, 8):
                        edges.add(
                            (mpf(float(other)) + k * mp.sqrt(mpf(float(variance))) - mpf(float(m))) / sd
                        )
            inside = sorted(edge for edge in edges if abs(edge) <= 11)
            value, error = mp.quad(integrand, inside, error=True, method="gauss-legendre")
            assert error < 1e-16
            total += mpf(float(w)) * value
        return total


def _frame(cov, turn):
    """The Cholesky factor of `cov`, turned, with 50 digits: a rounded one would be another mixture."""
    with mp.workdps(50):
        return mp.cholesky(_matrix(cov)) * _matrix(turn)


def _in_frame(mixture, mean, factor):
    """(constant, offset, matrix) of every component at z = mean + factor xi."""
    rows = []
    with mp.workdps(50):
        for w, m, c in zip(*mixture, strict=True):
            if w > 0:
                chol = mp.cholesky(_matrix(c))
                inverse = mp.inverse(chol)
                constant = mp.log(mpf(float(w))) - mp.log(mp.det(chol) * (2 * mp.pi) ** (mpf(chol.rows) / 2))
                offset = inverse * (_column(mean) - _column(m))
                matrix = (inverse * factor).tolist()
                rows.append(
                    (float(constant), [float(b) for b in offset], [[float(x) for x in row] for row in matrix])
                )
    return rows


def _log_sum(rows, xi):
    values = [
        c
        - 0.5
        * sum(
            (b + sum(a * x for a, x in zip(row, xi, strict=True))) ** 2 for b, row in zip(bs, B, strict=True)
        )
        for c, bs, B in rows
    ]
    top = values[0]
    for value in values[1:]:
        top = np.maximum(top, value)
    return top + np.log(sum(np.exp(value - top) for value in values))


def _adaptive(function, edges, order, tolerance, counts):
    """Integrals of `function(row, points)` over the panels between `edges`, for each of `counts` rows.

    Gauss-Legendre on a panel is accepted when its two halves agree with it, and then the halves are taken.
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)

    def rule(row, low, high):
        half = 0.5 * (high - low)
        points = (0.5 * (low + high))[:, None] + half[:, None] * nodes
        return half * (function(np.repeat(row, order), points.ravel()).reshape(points.shape) @ weights)

    row = np.repeat(np.arange(counts), len(edges) - 1)
    low, high = np.tile(edges[:-1], counts), np.tile(edges[1:], counts)
    total, whole = np.zeros(counts), rule(row, low, high)
    for _ in range(60):
        middle = 0.5 * (low + high)
        left, right = rule(row, low, middle), rule(row, middle, high)
        good = np.abs(left + right - whole) <= tolerance
        np.add.at(total, row[good], (left + right)[good])
        if good.all():
            return total
        bad = ~good
        row, whole = np.tile(row[bad], 2), np.concatenate([left[bad], right[bad]])
        low, high = np.concatenate([low[bad], middle[bad]]), np.concatenate([middle[bad], high[bad]])
    raise AssertionError("the reference did not converge")


def mixture_integral_2d(p, q=None, tolerance=1e-12):
    """E_p[log p - log q], or E_p[log p], in the plane: p, q = (weights, means, covs).

    For each component of p, in the coordinates in which it is standard normal: adaptive Gauss-Legendre
    panels along the first axis, for every node of adaptive panels along the second.
    """
    total = 0.0
    edges = np.array([-9.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 9.0])
    for w, m, c in zip(*p, strict=True):
        # Turned by an angle, lest something sharp run along an axis.
        turn = np.array([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
        factor = _frame(c, turn)
        first, second = _in_frame(p, m, factor), _in_frame(q, m, factor) if q is not None else None

        def integrand(x, y, first=first, second=second):
            value = _log_sum(first, (x, y)) - (_log_sum(second, (x, y)) if second is not None else 0.0)
            return value * np.exp(-0.5 * (x * x + y * y)) / (2.0 * math.pi)

        def inner(_, y, integrand=integrand):
            return _adaptive(lambda row, x: integrand(x, y[row]), edges, 10, tolerance, len(y))

        total += w * _adaptive(inner, edges, 10, 4.0 * tolerance, 1)[0]
    return total


def mixture_integral_3d(p, q=None, step=0.2):
    """E_p[log p - log q], or E_p[log p], in space: a fine trapezoid rule in each component's coordinates."""
    axis = np.arange(-8.6, 8.6 + step, step)
    xi = np.meshgrid(axis, axis, axis, indexing="ij")
    cell = step**3 * np.exp(-0.5 * sum(x * x for x in xi)) / (2.0 * math.pi) ** 1.5
    total = 0.0
    for w, m, c in zip(*p, strict=True):
        factor = _frame(c, np.eye(3))
        value = _log_sum(_in_frame(p, m, factor), xi)
        if q is not None:
            value = value - _log_sum(_in_frame(q, m, factor), xi)
        total += w * float((cell * value).sum())
    return total


def em(x, weights, means, covs, steps):
    """EM a point at a time, Bishop (2006), eq. 9.23 to 9.28: (trace, weights, means, covs, posteriors)."""
    weights, means, covs = (np.array(a, float) for a in (weights, means, covs))
    n, d = x.shape
    trace = []
    while True:
        r, evidence = np.empty((n, len(weights))), 0.0
        for i, point in enumerate(x):
            density = [
                w
                * math.exp(-0.5 * (point - m) @ np.linalg.solve(c, point - m))
                / math.sqrt((2.0 * math.pi) ** d * np.linalg.det(c))
                for w, m, c in zip(weights, means, covs, strict=True)
            ]
            r[i] = np.array(density) / sum(density)
            evidence += math.log(sum(density))
        trace.append(evidence)
        if len(trace) > steps:
            return np.array(trace), weights, means, covs, r
        for k in range(len(weights)):
            mass = r[:, k].sum()
            weights[k] = mass / n
            means[k] = r[:, k] @ x / mass
            covs[k] = sum(r[i, k] * np.outer(x[i] - means[k], x[i] - means[k]) for i in range(n)) / mass


def posterior_nodes(support, low, high, count=300):
    """(z, log weight) of a Gauss-Legendre rule over a support of one or two free coordinates.

    `support` is "box" for the box between `low` and `high`, or "simplex" for two or three shares.
    """
    x, w = np.polynomial.legendre.leggauss(count)
    axes = []
    for a, b in zip(low, high, strict=True):
        axes.append((0.5 * (a + b) + 0.5 * (b - a) * x, np.log(0.5 * (b - a) * w)))
    if len(axes) == 1:
        z, weight = axes[0][0][:, None], axes[0][1]
    else:
        u, v = np.meshgrid(axes[0][0], axes[1][0], indexing="ij")
        z = np.stack([u.ravel(), v.ravel()], axis=-1)
        weight = (axes[0][1][:, None] + axes[1][1][None, :]).ravel()
    if support == "simplex":
        if z.shape[1] == 2:
            weight = weight + np.log1p(-z[:, 0])
            z = np.stack([z[:, 0], (1 - z[:, 0]) * z[:, 1]], axis=-1)
        z = np.column_stack([z, 1 - z.sum(axis=1)])
    return z, weight
