"""Gaussians in closed form in mpmath, and integrals over mixtures by slow quadrature."""

import math

import numpy as np
from mpmath import mp, mpf


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


def _frame(cov, rotation):
    """The Cholesky factor of `cov` times a rotation, to 50 digits: a rounded factor is another mixture's."""
    with mp.workdps(50):
        return mp.cholesky(_matrix(cov)) * _matrix(rotation)


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
        # Rotated, so that nothing narrow lies along an axis.
        rotation = np.array([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
        factor = _frame(c, rotation)
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
