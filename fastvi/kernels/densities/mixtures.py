"""Gaussian mixtures, given by log weights (K), means (K, D) and lower Cholesky factors (K, D, D).

Densities, moments and modes; used by distributions and projections. For quadrature the mixture is given by
its coefficients in a frame z = mean + factor xi, D <= 3: there component k has the log density ``c - |B xi +
b|**2 / 2``, and a row of `coefficients` holds c, b (3) and B (9).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..compiler import exported, formula, inlined, kernel
from ..numerics.elementary import decay, log
from ..numerics.matrices import cholesky, clear_matrix, clear_vector, half_log_det, solve_lower, solve_upper
from .gaussians import LOG_2PI

#: The constant c of a component that is dropped.
DROPPED = -1e300

#: Most mean shifts to a mode, and the squared length of the last one in units of the standard deviation
#: there.
MOST_SHIFTS, LAST_SHIFT = 100, 1e-8


class Mixture(NamedTuple):
    """A mixture of K Gaussians in D dimensions."""

    log_weights: Any  #: (K,), -inf for a weight of zero
    means: Any  #: (K, D)
    chols: Any  #: (K, D, D) lower Cholesky factors


@exported
def mixture_logpdf(z, log_weights, means, chols, space):
    """log of the density of a mixture at z.

    Parameters
    ----------
    z : (D,)
    log_weights, means, chols : (K,), (K, D), (K, D, D)
        The mixture; -inf for a weight of zero.
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
    >>> log_weights, means, chols = np.log([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> round(kernels.mixtures.mixture_logpdf(np.zeros(1), log_weights, means, chols, np.empty(1)), 9)
    -1.418938533
    """
    dim = z.size
    top, total = -math.inf, 0.0
    for k in range(log_weights.size):
        for i in range(dim):
            space[i] = z[i] - means[k, i]
        solve_lower(chols[k], space[:dim])
        square = 0.0
        for i in range(dim):
            square += space[i] * space[i]
        value = log_weights[k] - half_log_det(chols[k]) - 0.5 * (square + dim * LOG_2PI)
        if value != value:
            return math.nan
        if value > top:
            total = total * math.exp(top - value) + 1.0
            top = value
        elif value > -math.inf:
            total += math.exp(value - top)
    return top + math.log(total) if total > 0.0 else top


@exported
def mixture_logpdf_many(points, log_weights, means, chols, space, out):
    """`mixture_logpdf` of each row of points (N, D), written to out (N,).

    Parameters
    ----------
    points : (N, D)
    log_weights, means, chols, space
        As in `mixture_logpdf`.
    out : (N,)
        Is written.

    Returns
    -------
    None

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> log_weights, means, chols = np.log([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> points, out = np.array([[0.0], [1.0]]), np.empty(2)
    >>> kernels.mixtures.mixture_logpdf_many(points, log_weights, means, chols, np.empty(1), out)
    >>> out.round(9)
    array([-1.41893853, -1.4851577 ])
    """
    for i in range(points.shape[0]):
        out[i] = mixture_logpdf(points[i], log_weights, means, chols, space)


@kernel
def write_coefficients(mixture, mean, factor, coefficients, space):
    """Write the coefficients of a `Mixture` in the frame (mean, factor); `space` has D numbers."""
    log_weights, means, chols = mixture
    dim = mean.size
    for k in range(log_weights.size):
        row = coefficients[k]
        clear_vector(row)
        # DROPPED and not -inf for a weight of zero: differences of constants must not be NaN.
        row[0] = max(log_weights[k] - half_log_det(chols[k]) - 0.5 * dim * LOG_2PI, DROPPED)
        for i in range(dim):
            space[i] = mean[i] - means[k, i]
        solve_lower(chols[k], space[:dim])
        for i in range(dim):
            row[1 + i] = space[i]
        for j in range(dim):
            for i in range(dim):
                space[i] = factor[i, j]
            solve_lower(chols[k], space[:dim])
            for i in range(dim):
                row[4 + 3 * i + j] = space[i]


@formula
def _square_2(b, b0, b1, x, y):
    u = b + b0 * x + b1 * y
    return u * u


@formula
def _plane(row, z):
    """Coefficients of a component in the plane of this z: c, b (2), B (2 x 2), and the third row."""
    return (
        row[0],
        row[1] + row[6] * z,
        row[2] + row[9] * z,
        row[4],
        row[5],
        row[7],
        row[8],
        row[3] + row[12] * z,
        row[10],
        row[11],
    )


@formula
def _value(plane, flat, x, y):
    """Log density of a component in a plane; `flat` means D <= 2."""
    c, b0, b1, b00, b01, b10, b11, b2, b20, b21 = plane
    square = _square_2(b0, b00, b01, x, y) + _square_2(b1, b10, b11, x, y)
    return c - 0.5 * (square if flat else square + _square_2(b2, b20, b21, x, y))


@formula
def _combined(value, top, total):
    """Streaming log-sum-exp: add exp(value) to exp(top) total, with the total in [1, K]."""
    up = value > top
    e = decay(-abs(value - top))
    return (value if up else top), (total if up else 1.0) * e + (1.0 if up else total)


@formula
def log_sum(top, total):
    """log(exp(top) total)."""
    return top + log(total)


@inlined
def _one(one, flat, x, y, top, total):
    for i in range(x.size):
        top[i], total[i] = _value(one, flat, x[i], y[i]), 1.0


@inlined
def _two(one, two, flat, x, y, top, total):
    for i in range(x.size):
        top[i], total[i] = _combined(_value(two, flat, x[i], y[i]), _value(one, flat, x[i], y[i]), 1.0)


@inlined
def _another(one, flat, x, y, top, total):
    for i in range(x.size):
        top[i], total[i] = _combined(_value(one, flat, x[i], y[i]), top[i], total[i])


@kernel
def log_terms(coefficients, dim, x, y, z, top, total):
    """Write the density at nodes with one z as exp(top) total, with total in [1, K]; 1 for K = 0.

    One exponential for each component but the first. The first two share a loop, which saves a fifth of the
    time in loads and stores.
    """
    components, flat = coefficients.shape[0], dim < 3
    if components == 0:
        for i in range(x.size):
            top[i], total[i] = 0.0, 1.0
        return
    one = _plane(coefficients[0], z)
    if components == 1:
        _one(one, flat, x, y, top, total)
        return
    _two(one, _plane(coefficients[1], z), flat, x, y, top, total)
    for k in range(2, components):
        _another(_plane(coefficients[k], z), flat, x, y, top, total)


@exported
def mixture_moments(log_weights, means, chols, mean, cov):
    """Write the mean and the covariance of a mixture.

    Parameters
    ----------
    log_weights, means, chols : (K,), (K, D), (K, D, D)
    mean, cov : (D,), (D, D)
        Are written.

    Returns
    -------
    None

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> log_weights, means, chols = np.log([0.5, 0.5]), np.array([[-1.0], [1.0]]), np.ones((2, 1, 1))
    >>> mean, cov = np.empty(1), np.empty((1, 1))
    >>> kernels.mixtures.mixture_moments(log_weights, means, chols, mean, cov)
    >>> mean, cov
    (array([0.]), array([[2.]]))
    """
    dim = mean.size
    clear_vector(mean)
    clear_matrix(cov)
    for k in range(log_weights.size):
        w = math.exp(log_weights[k])
        for i in range(dim):
            mean[i] += w * means[k, i]
    for k in range(log_weights.size):
        w = math.exp(log_weights[k])
        for i in range(dim):
            for j in range(i + 1):
                s = (means[k, i] - mean[i]) * (means[k, j] - mean[j])
                for a in range(j + 1):
                    s += chols[k, i, a] * chols[k, j, a]
                cov[i, j] += w * s
                if i > j:
                    cov[j, i] = cov[i, j]


@kernel
def pair_moments(log_weights, means, chols, k, m, mean, cov):
    """`mixture_moments` of components k and m alone."""
    dim = mean.size
    top = max(log_weights[k], log_weights[m])
    u, v = math.exp(log_weights[k] - top), math.exp(log_weights[m] - top)
    u, v = u / (u + v), v / (u + v)
    for i in range(dim):
        mean[i] = u * means[k, i] + v * means[m, i]
        for j in range(i + 1):
            s = u * v * (means[k, i] - means[m, i]) * (means[k, j] - means[m, j])
            for a in range(j + 1):
                s += u * chols[k, i, a] * chols[k, j, a] + v * chols[m, i, a] * chols[m, j, a]
            cov[i, j] = s
            cov[j, i] = s


@kernel
def _differentiate(log_weights, means, chols, z, gradient, curvature, precision, space):
    """Write the gradient of log p at z, minus its Hessian, and the mean precision by responsibilities."""
    dim = z.size
    level = mixture_logpdf(z, log_weights, means, chols, space)
    clear_vector(gradient)
    clear_matrix(curvature)
    clear_matrix(precision)
    column, direction = space[:dim], space[dim : 2 * dim]
    for k in range(log_weights.size):
        for i in range(dim):
            direction[i] = means[k, i] - z[i]
        solve_lower(chols[k], direction)
        square = 0.0
        for i in range(dim):
            square += direction[i] * direction[i]
        value = log_weights[k] - half_log_det(chols[k]) - 0.5 * (square + dim * LOG_2PI)
        share = math.exp(value - level) if value > -math.inf else 0.0
        if share == 0.0:
            continue
        solve_upper(chols[k], direction)
        for j in range(dim):
            for i in range(dim):
                column[i] = 1.0 if i == j else 0.0
            solve_lower(chols[k], column)
            solve_upper(chols[k], column)
            gradient[j] += share * direction[j]
            for i in range(dim):
                precision[i, j] += share * column[i]
                curvature[i, j] += share * (column[i] - direction[i] * direction[j])
    for i in range(dim):
        for j in range(dim):
            curvature[i, j] += gradient[i] * gradient[j]


@kernel
def find_mode(log_weights, means, chols, z, gradient, curvature, precision, space):
    """Move z to a mode by mean shifts (Carreira-Perpinan 2000, section 4); False where it found none.

    Written to `curvature`: the Cholesky factor of minus the Hessian at the mode, the inverse of the Laplace
    covariance. `space` has 2 D numbers.
    """
    dim = z.size
    for _ in range(MOST_SHIFTS):
        _differentiate(log_weights, means, chols, z, gradient, curvature, precision, space)
        if not cholesky(precision, precision):
            return False
        step = gradient
        solve_lower(precision, step)
        square = 0.0
        for i in range(dim):
            square += step[i] * step[i]
        solve_upper(precision, step)
        for i in range(dim):
            z[i] += step[i]
        if square < LAST_SHIFT:
            break
    _differentiate(log_weights, means, chols, z, gradient, curvature, precision, space)
    return cholesky(curvature, precision)
