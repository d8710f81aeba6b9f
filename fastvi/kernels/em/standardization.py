"""Standardization of data to mean 0 and covariance I, and of mixtures to and from such coordinates.

`fastvi.fit_mixture` runs EM in standardized coordinates, where its tolerances mean the same for all data.
"""

from __future__ import annotations

import math

from ..borrowing import borrow
from ..compiler import adder, exported, formula, kernel
from ..densities.mixtures import mixture_moments
from ..numerics.matrices import cholesky, clear_matrix, dot, solve_lower

#: A column whose residual on the columns before it is below this part of its deviation is linearly dependent
#: on them: rounding leaves 1e-16.
DEPENDENT = 1e-12

#: Rows of a block of `transpose`.
TOGETHER = 64


@kernel
def _shift(x, i, out):
    """out = column i of x minus its mean; the mean."""
    first = x[0, i]
    s = 0.0
    for n in range(out.size):
        out[n] = x[n, i] - first
        s += out[n]
    mean = s / out.size
    for n in range(out.size):
        out[n] -= mean
    return first + mean


@formula
def _subtract(x, a, out):
    for n in range(out.size):
        out[n] -= a * x[n]


@formula
def _multiply(x, a):
    for n in range(x.size):
        x[n] *= a


@exported
def transpose(x, out):
    """out = x.T, in blocks of rows that stay in the first-level cache: half the time of numpy's copy."""
    for first in range(0, x.shape[0], TOGETHER):
        last = min(first + TOGETHER, x.shape[0])
        for i in range(x.shape[1]):
            for n in range(first, last):
                out[i, n] = x[n, i]


@formula
def _add_shifted(sums, x, first, weight):
    return sums[0] + weight, sums[1] + weight * (x - first)


@formula
def _square(x, mean):
    return (x - mean) * (x - mean)


@adder
def _shifted_sums(values, counts):
    """The sums of the weights, and of the weighted differences from the first value."""
    sums = 0.0, 0.0
    if counts.size > 0:
        for n in range(values.size):
            sums = _add_shifted(sums, values[n], values[0], counts[n])
    else:
        for n in range(values.size):
            sums = _add_shifted(sums, values[n], values[0], 1.0)
    return sums


@adder
def _squares(values, counts, mean):
    """The sum of the weighted squared differences from the mean."""
    s = 0.0
    if counts.size > 0:
        for n in range(values.size):
            s += counts[n] * _square(values[n], mean)
    else:
        for n in range(values.size):
            s += _square(values[n], mean)
    return s


@exported
def moments_of(values, counts):
    """(mean, variance) of numbers.

    `counts` are their weights, or (0,): each counts once. Of equal numbers the variance is 0, and only then
    or where it underflows.
    """
    mass, shifted = _shifted_sums(values, counts)
    mean = values[0] + shifted / mass
    return mean, _squares(values, counts, mean) / mass


@exported
def shift_and_scale(values, mean, scale):
    """values = (values - mean) / scale, in place."""
    for n in range(values.size):
        values[n] = (values[n] - mean) / scale


@exported
def standardize(x, columns, mean, factor):
    """Write columns with mean 0 and covariance I, where x[n] = mean + factor columns[:, n]; x is (N, D).

    Returned is the index of the first column that is constant, out of range, or a linear combination of the
    columns before it; D if there is none. The method is modified Gram-Schmidt, so that the identity holds to
    rounding.
    """
    size, dim = x.shape
    clear_matrix(factor)
    for i in range(dim):
        out = columns[i]
        mean[i] = _shift(x, i, out)
        spread = math.sqrt(dot(out, out) / size)
        for j in range(i):
            factor[i, j] = dot(out, columns[j]) / size
            _subtract(columns[j], factor[i, j], out)
        factor[i, i] = math.sqrt(dot(out, out) / size)
        if not factor[i, i] > DEPENDENT * spread or not factor[i, i] < math.inf:
            return i
        _multiply(out, 1.0 / factor[i, i])
    return dim


@exported
def unstandardize_mixture(mean, factor, means, factors):
    """Transform a mixture of standardized points to the coordinates of the data, in place."""
    dim = mean.size
    for k in range(means.shape[0]):
        for i in range(dim - 1, -1, -1):
            s = mean[i]
            for j in range(i + 1):
                s += factor[i, j] * means[k, j]
            means[k, i] = s
            for j in range(i + 1):
                s = 0.0
                for a in range(j, i + 1):
                    s += factor[i, a] * factors[k, a, j]
                factors[k, i, j] = s


@exported
def standardize_mixture(mean, factor, means, factors):
    """The inverse of `unstandardize_mixture`."""
    dim = mean.size
    for k in range(means.shape[0]):
        for i in range(dim):
            means[k, i] -= mean[i]
        solve_lower(factor, means[k])
        for j in range(dim):
            solve_lower(factor, factors[k, :, j])


@exported
def write_frame(p, mean, cov, factor):
    """Write the moments of a mixture, and the factor of the covariance: coordinates with moments 0 and I.

    False where the covariance is singular to rounding: then the factor has the deviations alone.
    """
    log_weights, means, factors = borrow(p)
    mixture_moments(log_weights, means, factors, mean, cov)
    if cholesky(cov, factor):
        return True
    clear_matrix(factor)
    for i in range(mean.size):
        factor[i, i] = math.sqrt(cov[i, i])
    return False
