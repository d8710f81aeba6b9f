"""Densities and KL divergences of Gaussians in any dimension, given by means and lower Cholesky factors.

Used by mixtures, projections and fits. `space` is scratch space of at least 2 D numbers. Nothing is checked:
a factor has a positive diagonal.
"""

from __future__ import annotations

import math

from ..compiler import exported, kernel
from ..discrete.terms import kl_term
from ..numerics.matrices import cholesky, half_log_det

LOG_2PI = math.log(2.0 * math.pi)


@kernel
def squared_distance(z, mean, chol, space):
    """(z - mean)' Sigma^-1 (z - mean)."""
    n = mean.size
    s = 0.0
    for i in range(n):
        d = z[i] - mean[i]
        for j in range(i):
            d -= chol[i, j] * space[j]
        space[i] = d / chol[i, i]
        s += space[i] * space[i]
    return s


@exported
def gaussian_logpdf(z, mean, chol, space):
    """log N(z | mean, chol chol').

    Parameters
    ----------
    z, mean : (D,)
    chol : (D, D)
        The lower Cholesky factor of the covariance.
    space : (D,)
        Scratch space.

    Returns
    -------
    float
        NaN where an argument is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> z, mean, chol = np.zeros(2), np.array([3.0, 4.0]), np.diag([1.0, 2.0])
    >>> round(kernels.gaussians.gaussian_logpdf(z, mean, chol, np.empty(2)), 9)
    -9.031024247
    """
    return -0.5 * (squared_distance(z, mean, chol, space) + mean.size * LOG_2PI) - half_log_det(chol)


@kernel
def _stretch(e, ratio):
    """r**2 - 1 - log r**2 for r = 1 + e, without cancellation near r = 1 (from e) and near 0 (from r)."""
    if abs(e) > 0.5:
        return (ratio * ratio - 1.0) - 2.0 * math.log(ratio)
    return kl_term(1.0, (1.0 + e) * (1.0 + e), -e * (2.0 + e), (0.0, 0.0))


@exported
def gaussian_kl(mean_p, chol_p, mean_q, chol_q, space):
    """KL(p ‖ q) of two Gaussians, to full relative accuracy also for p near q.

    With A = chol_q^-1 chol_p and d = chol_q^-1 (mean_p - mean_q) it is half the sum of all d_i**2, of
    A_ij**2 below the diagonal, and of A_ii**2 - 1 - log A_ii**2 on it. A - I = chol_q^-1 (chol_p - chol_q).

    Parameters
    ----------
    mean_p, chol_p, mean_q, chol_q : (D,), (D, D), (D,), (D, D)
        The factors are lower triangular, their diagonals positive.
    space : (2 D,)
        Scratch space.

    Returns
    -------
    float
        Nats; NaN where an argument is.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> zero, one = np.zeros(2), np.eye(2)
    >>> kernels.gaussians.gaussian_kl(zero, one, np.array([3.0, 4.0]), one, np.empty(4))
    12.5
    """
    n = mean_p.size
    total = 0.0
    for j in range(n):
        for i in range(j, n):
            d = chol_p[i, j] - chol_q[i, j]
            for k in range(j, i):
                d -= chol_q[i, k] * space[k]
            space[i] = d / chol_q[i, i]
            total += _stretch(space[i], chol_p[i, i] / chol_q[i, i]) if i == j else space[i] * space[i]
    for i in range(n):
        space[n + i] = mean_p[i] - mean_q[i]
    for i in range(n):
        d = space[n + i]
        for k in range(i):
            d -= chol_q[i, k] * space[n + k]
        space[n + i] = d / chol_q[i, i]
        total += space[n + i] * space[n + i]
    return 0.5 * total


@kernel
def log_overlap(mean_p, chol_p, mean_q, chol_q, scale, matrix, space):
    """(log N(mean_p - mean_q | 0, S), log |S| / 2) for S = scale (Sigma_p + Sigma_q); `matrix` is scratch."""
    n = mean_p.size
    for i in range(n):
        for j in range(i + 1):
            s = 0.0
            for k in range(j + 1):
                s += chol_p[i, k] * chol_p[j, k] + chol_q[i, k] * chol_q[j, k]
            matrix[i, j] = scale * s
    if not cholesky(matrix, matrix):
        return math.nan, math.nan
    half = half_log_det(matrix)
    return -0.5 * (squared_distance(mean_p, mean_q, matrix, space) + n * LOG_2PI) - half, half


@kernel
def bhattacharyya(mean_p, chol_p, mean_q, chol_q, matrix, space):
    """The Bhattacharyya distance, -log of the integral of sqrt(p q)."""
    n = mean_p.size
    log_value, half = log_overlap(mean_p, chol_p, mean_q, chol_q, 0.5, matrix, space)
    # log_value = -distance**2 / 2 - half - n log(2 pi) / 2, of which a quarter of the distance is wanted.
    quarter = -0.25 * (log_value + half + 0.5 * n * LOG_2PI)
    return quarter + half - 0.5 * (half_log_det(chol_p) + half_log_det(chol_q))
