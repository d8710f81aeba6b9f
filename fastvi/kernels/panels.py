"""A log joint at many points: the one place where a model is called, and where its faults are found.

A `problem` is (data, kinds, bounds) of a log joint, see `targets` and `supports`. A `panel` is scratch space
for rows of points: (latent coordinates, model coordinates, (log joint, log-Jacobian, values), a point where
something was wrong, gradients in either coordinates).
"""

from __future__ import annotations

import math

import numpy as np

from .jit import inlined, kernel
from .supports import is_real, to_support
from .targets import tabulate

#: Points that are looked at together: a dozen arrays of them stay in the first-level cache.
BLOCK = 512

#: What became of it.
FINE = 0
RAISED = 1  #: the log joint raised an exception
NOT_A_NUMBER = 2  #: it was NaN
INFINITE = 3  #: it was +inf
ZERO = 4  #: it was -inf


@kernel
def panel(latent, dim):
    """Scratch space for points of `latent` real coordinates, which are `dim` in the model's own."""
    rows = max(BLOCK, 2 * latent + 1)
    return (
        np.empty((rows, latent)),
        np.empty((rows, dim)),
        np.empty((3, rows)),
        np.empty(dim),
        np.empty((BLOCK, dim)),
        np.empty((BLOCK, latent)),
    )


@inlined
def look(log_joint, problem, count, sheet):
    """Write the log joint and the log-Jacobian at the first `count` points of a panel; FINE or RAISED."""
    data, kinds, bounds = problem
    nodes, z, table = sheet[0], sheet[1], sheet[2]
    if is_real(kinds):
        for n in range(count):
            table[1, n] = 0.0
        failed = tabulate(log_joint, data, nodes, count, table[0])
    else:
        to_support(kinds, bounds, nodes, count, z, table[1])
        failed = tabulate(log_joint, data, z, count, table[0])
    if failed == 0:
        return FINE
    point_out(problem, failed - 1, sheet)
    return RAISED


@kernel
def point_out(problem, row, sheet):
    """Keep the model's coordinates of a row."""
    points = sheet[0] if is_real(problem[1]) else sheet[1]
    for i in range(sheet[3].size):
        sheet[3][i] = points[row, i]


@kernel
def fault(problem, count, sheet):
    """The status of the first point whose log joint is not finite, which is pointed out."""
    for n in range(count):
        value = sheet[2][0, n]
        if not abs(value) < math.inf:
            point_out(problem, n, sheet)
            if value == math.inf:
                return INFINITE
            return ZERO if value == -math.inf else NOT_A_NUMBER
    return FINE


@inlined
def density(log_joint, problem, latent, sheet):
    """(status, log joint + log-Jacobian) at one point of latent coordinates."""
    for i in range(latent.size):
        sheet[0][0, i] = latent[i]
    status = look(log_joint, problem, 1, sheet)
    if status == FINE:
        status = fault(problem, 1, sheet)
    return status, sheet[2][0, 0] + sheet[2][1, 0]
