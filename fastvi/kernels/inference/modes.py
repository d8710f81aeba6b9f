"""Where the mass of a posterior is: its modes, and a frame that covers them, in up to two latent dimensions.

Searches start around the first mode, around the origin, and at the mode's mirror images. In the frame
`fastvi.log_evidence` integrates, from Python and in compiled code. Where calls of a model are expensive,
Python searches from the same points in step, see `fastvi.inference.lockstep`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..compiler import inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..models.evaluation import evaluate, fault
from ..numerics.matrices import cholesky, copy_matrix, copy_vector, fill_vector, half_log_det, solve_lower
from ..statuses import FINE
from .laplace import laplace

#: Distances of further starts, in deviations of the first mode from there, and from the origin.
FROM_THE_MODE, FROM_THE_ORIGIN = np.array([4.0, 16.0, 64.0]), np.array([1.0, 5.0, 25.0])

#: A mode is one if the log density falls as that of its approximation: over this many deviations on each
#: axis, slopes are at most `LEVEL`, and second derivatives -1 within `ROUND`.
STEP, LEVEL, ROUND = 0.1, 0.1, 0.5

#: Modes nearer than this to another, in its deviations, are the same.
SAME = 0.5

#: Modes whose mass is below exp(-this) of the largest are left out.
NEGLIGIBLE = 40.0


class Modes(NamedTuple):
    """Laplace's approximations at modes, in latent coordinates; one row more than there are starts."""

    means: Any  #: (N, R)
    factors: Any  #: (N, R, R)
    log_masses: Any  #: (N,)


def starts_of(latent):
    """How many points `write_starts` writes. Plain, for Python calls it as well."""
    return (FROM_THE_MODE.size + FROM_THE_ORIGIN.size) * (3**latent - 1) + 2


def is_top(top, after, before):
    """Whether log densities at a point and `STEP` deviations to either side are those of a mode.

    On a tail a search ends without one. Plain, for numbers and for arrays.
    """
    slope, bend = (after - before) / (2.0 * STEP), (2.0 * top - after - before) / STEP**2
    return (abs(slope) <= LEVEL) & (abs(bend - 1.0) <= ROUND)


_is_top = kernel(is_top)


@kernel
def write_starts(mean, factor, out):
    """Write points around a mode and around the origin, and the mode's mirror images."""
    latent, row, directions = mean.size, 0, 3**mean.size
    for from_the_mode in (True, False):
        for distance in FROM_THE_MODE if from_the_mode else FROM_THE_ORIGIN:
            for k in range(directions):
                if 2 * k + 1 == directions:
                    continue  # no step on any axis
                for i in range(latent):
                    step = 0.0
                    for j in range(i + 1) if from_the_mode else range(i, i + 1):
                        share = k // 3 ** (latent - 1 - j) % 3 - 1.0
                        step += (factor[i, j] if from_the_mode else 1.0) * share
                    out[row, i] = distance * step
                    if from_the_mode:
                        out[row, i] += mean[i]
                row += 1
    for i in range(latent):
        out[row, i], out[row + 1, i] = -mean[i], mean[latent - 1 - i]


@inlined
def _at_mode(log_joint, problem, mean, factor, panel):
    """(Whether Laplace's approximation is at a mode; the log of its mass)."""
    latent, count = mean.size, 2 * mean.size + 1
    for n in range(count):
        axis, side = (n - 1) % latent, STEP if n <= latent else -STEP
        for i in range(latent):
            panel.latent[n, i] = mean[i]
            if n > 0:
                panel.latent[n, i] += side * factor[i, axis]
            if not abs(panel.latent[n, i]) < math.inf:
                return False, -math.inf
    if evaluate(log_joint, problem, count, panel) != FINE or fault(problem, count, panel) != FINE:
        return False, -math.inf
    for n in range(count):
        panel.values[n] = panel.log_joint[n] + panel.log_jacobian[n]
    top = panel.values[0]
    for i in range(latent):
        if not _is_top(top, panel.values[1 + i], panel.values[1 + latent + i]):
            return False, -math.inf
    return True, top + half_log_det(factor) + 0.5 * latent * LOG_2PI


@kernel
def distance(mean, factor, point, out):
    """Write the coordinates of a point in a frame; the largest of their sizes, infinite beyond floats."""
    largest = 0.0
    for i in range(out.size):
        out[i] = point[i] - mean[i]
    solve_lower(factor, out)
    for i in range(out.size):
        largest = max(largest, abs(out[i])) if out[i] == out[i] else math.inf
    return largest


@kernel
def _is_known(found, count, gap):
    """Whether the mode in row `count` is one of those before it."""
    means, factors = found.means, found.factors
    for n in range(count):
        if distance(means[n], factors[n], means[count], gap) <= SAME:
            return True
        if distance(means[count], factors[count], means[n], gap) <= SAME:
            return True
    return False


@kernel
def _without_negligible(found, count):
    """Move the first mode, and those that are not negligible, to the front; how many they are."""
    top, kept = -math.inf, 1
    for n in range(count):
        top = max(top, found.log_masses[n])
    for n in range(1, count):
        if found.log_masses[n] > top - NEGLIGIBLE:
            copy_vector(found.means[n], found.means[kept])
            copy_matrix(found.factors[n], found.factors[kept])
            found.log_masses[kept] = found.log_masses[n]
            kept += 1
    return kept


@inlined
def find(log_joint, problem, found, starts, scale, panel, space):
    """Write the modes that are found, of which the first row has a first approximation; how many they are.

    Parameters
    ----------
    log_joint, problem
        See `models.calling`, and a `Problem`.
    found : Modes
    starts : ndarray (starts_of(R), R)
        Overwritten, as is `scale` (R,).
    panel, space
        A `Panel`, and scratch space of `laplace`.
    """
    means, factors, log_masses = found.means, found.factors, found.log_masses
    write_starts(means[0], factors[0], starts)
    count = 0
    # The first search goes on from the first approximation, and says what mass it has.
    for n in range(-1, starts.shape[0]):
        row, usable = max(count, 1), True
        for i in range(scale.size):
            means[row, i] = means[0, i] if n < 0 else starts[n, i]
            usable = usable and abs(means[row, i]) < math.inf
        is_mode, log_mass = False, -math.inf
        if usable or n < 0:
            fill_vector(1.0, scale)
            status, _ = laplace(log_joint, problem, means[row], scale, factors[row], panel, space)
            if status == FINE:
                is_mode, log_mass = _at_mode(log_joint, problem, means[row], factors[row], panel)
        if n < 0:
            log_masses[0], count = log_mass, 1
        elif is_mode and not _is_known(found, count, scale):
            log_masses[count] = log_mass
            count += 1
    return _without_negligible(found, count)


@kernel
def frame(means, factors, mean, factor):
    """Write (mean, Cholesky factor) of the mixture of Gaussians with equal weights.

    Those of the first, where there is no factor: the modes are too far apart for floats.
    """
    count, latent = means.shape
    for i in range(latent):
        mean[i] = 0.0
        for n in range(count):
            mean[i] += means[n, i]
        mean[i] /= count
    for i in range(latent):
        for j in range(i + 1):
            factor[i, j] = 0.0
            for n in range(count):
                factor[i, j] += (means[n, i] - mean[i]) * (means[n, j] - mean[j])
                for k in range(j + 1):
                    factor[i, j] += factors[n, i, k] * factors[n, j, k]
            factor[i, j] /= count
    if count == 1 or not cholesky(factor, factor):
        copy_vector(means[0], mean)
        copy_matrix(factors[0], factor)
