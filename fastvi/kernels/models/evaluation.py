"""A log joint and its log-Jacobian at many latent points, with the status of values that are not finite.

All kernels for inference evaluate models by this module, whatever the support and the form of the call.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector
from ..compiler import inlined, kernel
from ..statuses import FINE, INFINITE, NOT_A_NUMBER, RAISED, ZERO
from .calling import tabulate
from .kinds import REAL
from .supports import is_real, to_support

#: Points that are evaluated together: a dozen arrays of so many fit in the first-level cache.
BLOCK = 512

#: Coordinates of a block of points, at most: one has fewer points in more than 2,048 dimensions.
NUMBERS = 1 << 20

#: Largest latent coordinate whose exponential is a float, and that of minus it.
FARTHEST = 600.0


class Problem(NamedTuple):
    """The data of a log joint and its support, see `calling` and `supports`."""

    data: Any  #: a tuple
    kinds: Any  #: (R,) of each latent coordinate
    bounds: Any  #: (R, 2)


class Panel(NamedTuple):
    """Scratch space for rows of points and the values at each."""

    latent: Matrix  #: (rows, R) latent coordinates
    z: Matrix  #: (rows, D) the model's own, where they differ
    log_joint: Vector  #: (rows,)
    log_jacobian: Vector  #: (rows,)
    values: Vector  #: (rows,) for their sum, or an integrand
    where: Vector  #: (D,) a point where something was wrong, in the model's coordinates


@kernel
def rows_of(latent):
    """Points that are evaluated together where each has so many coordinates: a block of at most 8 MB."""
    return min(BLOCK, max(16, NUMBERS // latent))


@kernel
def workspace(latent, dim):
    """Scratch space for points of `latent` real coordinates, which are `dim` in the model's own.

    It has room for both differences along each coordinate.
    """
    return panel_of(max(BLOCK, 2 * latent + 1), latent, dim)


@kernel
def panel_of(rows, latent, dim):
    """A panel for so many points."""
    return Panel(
        np.empty((rows, latent)),
        np.empty((rows, dim)),
        np.empty(rows),
        np.empty(rows),
        np.empty(rows),
        np.empty(dim),
    )


@inlined
def evaluate(log_joint, problem, count, panel):
    """Write the log joint and the log-Jacobian at the first `count` points of a panel; FINE or RAISED."""
    if is_real(problem.kinds):
        for n in range(count):
            panel.log_jacobian[n] = 0.0
        failed = tabulate(log_joint, problem.data, panel.latent, count, panel.log_joint)
    else:
        to_support(problem.kinds, problem.bounds, panel.latent, count, panel.z, panel.log_jacobian)
        failed = tabulate(log_joint, problem.data, panel.z, count, panel.log_joint)
    if failed == 0:
        return FINE
    point_out(problem, failed - 1, panel)
    return RAISED


@inlined
def evaluate_or_zero(log_joint, problem, count, panel):
    """Write log joint + log-Jacobian at the first points of a panel to its values, -inf where it has none.

    It has none where the log joint raises or is not finite, and far out on an axis that is not real:
    exponentials are no floats there, z stays where it is, and the Jacobian does not.
    """
    points, row, real = panel.latent, 0, is_real(problem.kinds)
    if real:
        for n in range(count):
            panel.log_jacobian[n] = 0.0
    else:
        to_support(problem.kinds, problem.bounds, panel.latent, count, panel.z, panel.log_jacobian)
        points = panel.z
    while row < count:
        failed = tabulate(log_joint, problem.data, points[row:], count - row, panel.log_joint[row:])
        if failed == 0:
            break
        row += failed
        panel.log_joint[row - 1] = math.nan
    for n in range(count):
        value = panel.log_joint[n] + panel.log_jacobian[n]
        panel.values[n] = value if abs(value) < math.inf else -math.inf
    for j in range(0 if real else problem.kinds.size):
        if problem.kinds[j] != REAL:
            for n in range(count):
                if not abs(panel.latent[n, j]) <= FARTHEST:
                    panel.values[n] = -math.inf


@kernel
def point_out(problem, row, panel):
    """Copy the model's coordinates of a row to `panel.where`."""
    points = panel.latent if is_real(problem.kinds) else panel.z
    for i in range(panel.where.size):
        panel.where[i] = points[row, i]


@inlined
def status_of(value):
    """The status of a value of the log joint."""
    if abs(value) < math.inf:
        return FINE
    if value == math.inf:
        return INFINITE
    return ZERO if value == -math.inf else NOT_A_NUMBER


@kernel
def fault(problem, count, panel):
    """The status of the first point whose log joint is not finite, which is pointed out."""
    for n in range(count):
        if not abs(panel.log_joint[n]) < math.inf:
            point_out(problem, n, panel)
            return status_of(panel.log_joint[n])
    return FINE


@inlined
def density(log_joint, problem, latent, panel):
    """(status, log joint + log-Jacobian) at one point of latent coordinates."""
    for i in range(latent.size):
        panel.latent[0, i] = latent[i]
    status = evaluate(log_joint, problem, 1, panel)
    if status == FINE:
        status = fault(problem, 1, panel)
    return status, panel.log_joint[0] + panel.log_jacobian[0]
