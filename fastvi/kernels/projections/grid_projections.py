"""I-projections of a density on a rectangular grid onto Gaussians, for `i_projection` of a `Grid2D`.

The density is given by log_p[i, j] at (x[i], y[j]), with trapezoid weights a_i b_j. What is minimised is the
generalised KL sum over the grid, sum a b (q log(q / p) - q + p): it cannot be negative, and the mass of q
outside of the grid counts as lost.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, borrow, named, packed
from ..compiler import adder, exported, formula, inlined, kernel, specialise
from ..densities.gaussians import LOG_2PI, gaussian_kl
from ..families.operations import restrict
from ..numerics.elementary import decay
from ..numerics.matrices import clear_vector
from ..optimizers import newton
from ..optimizers.newton import dual_length
from ..quadrature.lattice import padded
from ..quadrature.moments import MOMENTS
from ..statuses import CONVERGED
from .descent_starts import insert
from .optimum import SAME, Report

#: A Gaussian is cut off where it is below exp(-REACH**2 / 2) of its peak: 1e-15.
REACH = 8.3

#: Rows from one whose densities are computed by exponentials to the next, and length of a part of a row.
FRESH, WIDE = 16, 512

#: Tolerance for evenly spaced rows: the deviation of their middles, in standard deviations along the row.
EVEN = 1e-14


class Grid(NamedTuple):
    """A normalised log density on a grid of X by Y points."""

    x: Any  #: (X,) increasing
    y: Any  #: (Y,)
    a: Any  #: (X,) the weights of the trapezoid rule along x
    b: Any  #: (Y,)
    log_p: Any  #: (X, Y)


class Workspace(NamedTuple):
    """Scratch space for Gaussians in the plane."""

    newton: newton.Workspace
    trial_mean: Vector  #: (2,) after a step of the descent
    trial_chol: Matrix  #: (2, 2)
    moments: Vector  #: (MOMENTS,)
    trial_moments: Vector  #: (MOMENTS,)
    density: Vector  #: (WIDE,) of q along a part of a row, times the weights of the rule
    growth: Vector  #: (WIDE,) the factor of the density from row to row
    vectors: Vector  #: (4,) two vectors


@exported
def workspace():
    """Scratch space for `grid_reverse_kl`: one for each thread.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.grids.workspace()
    """
    return packed(
        Workspace(
            newton=newton.workspace(2),
            trial_mean=np.empty(2),
            trial_chol=np.empty((2, 2)),
            moments=np.empty(MOMENTS),
            trial_moments=np.empty(MOMENTS),
            density=np.empty(WIDE),
            growth=np.empty(WIDE),
            vectors=np.empty(4),
        )
    )


@formula
def _density(v, weight):
    return weight * decay(-0.5 * (v * v))


@formula
def _growth(v, change):
    return decay(v * change)


@inlined
def _start(y, b, first, slope, density):
    """Write the densities along a row, times the weights of the rule."""
    for j in range(y.size):
        density[j] = _density(slope * (y[j] - first), b[j])


@inlined
def _grow(y, first, slope, change, growth):
    """Write the factors from each row to the next."""
    for j in range(y.size):
        growth[j] = _growth(slope * (y[j] - first), change)


@adder
def _row_sums(y, log_p, first, slope, constant, density, growth):
    """Sums along a row of q v**k x, k <= 4, and of q; x = log q - log p, v the row's coordinate.

    `density` is advanced to the next row.
    """
    s0, s1, s2, s3, s4, mass = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(y.size):
        v = slope * (y[j] - first)
        square = v * v
        q = density[j]
        u = q * ((constant - 0.5 * square) - log_p[j])
        density[j] = q * growth[j]
        uv = u * v
        mass += q
        s0 += u
        s1 += uv
        s2 += u * square
        s3 += uv * square
        s4 += u * (square * square)
    return s0, s1, s2, s3, s4, mass


@kernel
def _first_above(y, value, near):
    """First index with y >= value, by a linear search from index `near`."""
    while near < y.size and y[near] < value:
        near += 1
    while near > 0 and y[near - 1] >= value:
        near -= 1
    return near


@kernel
def _whole_vectors(low, high, size):
    """Widen a range of entries to a multiple of PADDING, where the row has so many."""
    count = padded(high - low)
    low = max(min(low, size - count), 0)
    return low, min(low + count, size)


@kernel
def _shift(x, i, mean, chol):
    """Offset of the middle of a row from the mean of q, in standard deviations along the row."""
    return chol[1, 0] * ((x[i] - mean[0]) / chol[0, 0]) / chol[1, 1]


@kernel
def _rows_alike(x, i, most, mean, chol):
    """(number of rows from i on that are evenly spaced, shift from one to the next), else (1, 0)."""
    start = _shift(x, i, mean, chol)
    change = (_shift(x, i + most - 1, mean, chol) - start) / (most - 1) if most > 1 else 0.0
    if most * abs(change) > 2.0:
        return 1, 0.0
    for k in range(most):
        if abs(_shift(x, i + k, mean, chol) - start - k * change) > EVEN:
            return 1, 0.0
    return most, change


@kernel
def grid_moments(grid, mean, chol, space, moments):
    """Write the moments of x = log q - log p under q, in q's frame; the mass of q on the grid.

    Where the rows are evenly spaced, the density of q is multiplied by the same factors from row to row: 0.6
    ns a point instead of 1.1 with an exponential for each. It is recomputed every FRESH rows.
    """
    x, y, a, b, log_p = grid
    clear_vector(moments)
    l00, l10, l11 = chol[0, 0], chol[1, 0], chol[1, 1]
    constant, slope = -math.log(l00) - math.log(l11) - LOG_2PI, 1.0 / l11
    scale = math.exp(constant)
    total = 0.0
    i, last = _first_above(x, mean[0] - REACH * l00, 0), _first_above(x, mean[0] + REACH * l00, x.size)
    near, far = 0, y.size
    while i < last:
        count, change = _rows_alike(x, i, min(FRESH, last - i), mean, chol)
        low, high = y.size, 0
        for k in range(i, i + count):
            u = (x[k] - mean[0]) / l00
            middle, reach = mean[1] + l10 * u, l11 * math.sqrt(max(REACH * REACH - u * u, 0.0))
            near, far = _first_above(y, middle - reach, near), _first_above(y, middle + reach, far)
            low, high = min(low, near), max(high, far)
        low, high = _whole_vectors(low, high, y.size)
        first = mean[1] + l10 * ((x[i] - mean[0]) / l00)
        for start in range(low, high, WIDE):
            end = min(start + WIDE, high)
            points = y[start:end]
            density, growth = space.density[: end - start], space.growth[: end - start]
            _start(points, b[start:end], first, slope, density)
            if count > 1:
                _grow(points, first, slope, change, growth)
            for k in range(count):
                u = (x[i + k] - mean[0]) / l00
                s0, s1, s2, s3, s4, mass = _row_sums(
                    points,
                    log_p[i + k, start:end],
                    mean[1] + l10 * u,
                    slope,
                    constant - 0.5 * (u * u),
                    density,
                    growth,
                )
                shift = k * change
                w = a[i + k] * scale * math.exp(-0.5 * (u * u + shift * shift))
                total += w * mass
                for power in range(5):
                    moments[power] += w * s0
                    if power < 4:
                        moments[5 + power] += w * s1
                    if power < 3:
                        moments[10 + power] += w * s2
                    if power < 2:
                        moments[15 + power] += w * s3
                    if power < 1:
                        moments[20] += w * s4
                    w *= u
        i += count
    return total


@kernel
def _evaluate_on_grid(grid, mean, chol, space, moments):
    """Generalised KL divergence from a normalised p, and its moments: (value, points)."""
    mass = grid_moments(grid, mean, chol, space, moments)
    return moments[0] - mass + 1.0, grid.x.size * grid.y.size


_descend = specialise(newton.descend, "_descend_on_grid", evaluate=_evaluate_on_grid)


@exported
def grid_reverse_kl(x, y, a, b, log_p, mean, chol, grad_mean, grad_chol, space):
    """KL(q ‖ p) for q = N(mean, chol chol') and a density p on a rectangular grid, with its gradient.

    The generalised sum q log(q / p) - q + p over the grid, and its exact gradient.

    Parameters
    ----------
    x, y : (X,), (Y,)
        The axes, increasing.
    a, b : (X,), (Y,)
        The weights of the trapezoid rule along them.
    log_p : (X, Y)
        Normalised: the sum of a b exp(log_p) is 1. -inf where p is zero.
    mean, chol : (2,), (2, 2)
    grad_mean, grad_chol : (2,), (2, 2)
        The gradient in the mean and in the lower triangle of the factor is written to them.
    space : tuple
        A `workspace`.

    Returns
    -------
    value, mass
        The divergence on the grid, and the mass of q on it.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> x = np.linspace(-8.0, 8.0, 81)
    >>> a = np.full(81, 0.2)
    >>> log_p = -0.5 * (x[:, None] ** 2 + x[None, :] ** 2) - math.log(2.0 * math.pi)
    >>> grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
    >>> mean, chol, space = np.array([1.0, 0.0]), np.eye(2), kernels.grids.workspace()
    >>> grid = x, x, a, a, log_p
    >>> value, mass = kernels.grids.grid_reverse_kl(*grid, mean, chol, grad_mean, grad_chol, space)
    >>> round(value, 9), round(mass, 9), grad_mean.round(9) + 0.0
    (0.5, 1.0, array([1., 0.]))
    """
    space = named(Workspace, borrow(space))
    moments = space.moments
    mass = grid_moments(Grid(x, y, a, b, log_p), mean, chol, space, moments)
    l00, l10, l11 = chol[0, 0], chol[1, 0], chol[1, 1]
    # In q's frame: E[x xi], and the lower triangle of E[x (xi xi' - 1)].
    g0, g1 = moments[1], moments[5]
    t00, t10, t11 = moments[2] - moments[0], moments[6], moments[10] - moments[0]
    grad_mean[1] = g1 / l11
    grad_mean[0] = (g0 - l10 * grad_mean[1]) / l00
    grad_chol[1, 0], grad_chol[1, 1], grad_chol[0, 1] = t10 / l11, t11 / l11, 0.0
    grad_chol[0, 0] = (t00 - l10 * grad_chol[1, 0]) / l00
    return moments[0] - mass + 1.0, mass


@exported
def grid_projections(grid, family, means, chols, tolerance, space, reports):
    """All local minima of KL(q ‖ p) from these starts (S, 2), (S, 2, 2), best first: their number.

    The grid is (x, y, a, b, log_p), normalised. The starts are overwritten: the first rows are the optima. A
    `Report` of each is written to `reports`, (S, 5); the error in it is 0, that of the sum itself.
    """
    x, y, a, b, log_p = grid
    grid = Grid(x, y, a, b, log_p)
    space = named(Workspace, borrow(space))
    count, nodes_used = 0, 0
    moments, parts = space.moments, space.newton
    for s in range(means.shape[0]):
        mean, chol = means[s], chols[s]
        restrict(family, chol, space.vectors)
        nodes, _, minimum = _descend(grid, family, mean, chol, tolerance, space)
        nodes_used += nodes
        if not minimum:
            continue
        known = False
        for i in range(count):
            known = known or gaussian_kl(mean, chol, means[i], chols[i], space.vectors) < SAME
        if known:
            continue
        value, _ = _evaluate_on_grid(grid, mean, chol, space, moments)
        used = newton.differentiate(moments, family, 2, newton.lay_out(family, 2, parts), parts)
        report = Report(value, 0.0, dual_length(used, parts), 0, CONVERGED)
        insert(means, chols, reports, s, count, report, space.trial_mean, space.trial_chol)
        count += 1
    for i in range(count):
        reports[i, 3] = nodes_used
    return count
