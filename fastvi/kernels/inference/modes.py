"""Where the mass of a posterior is: its modes, and a frame that covers them, in up to two latent dimensions.

Searches start around the first mode, around the origin, and at the mode's mirror images; then from points
around it where the joint is higher than the modes found say. In the frame `fastvi.log_evidence` integrates,
from Python and in compiled code. Where calls of a model are expensive, Python searches from the same points
in step, see `fastvi.inference.lockstep`.
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
from . import survey
from .laplace import laplace

#: Distances of further starts, in deviations of the first mode from there, and from the origin.
FROM_THE_MODE, FROM_THE_ORIGIN = np.array([4.0, 16.0, 64.0]), np.array([1.0, 5.0, 25.0])

#: A mode is one if the log density falls as that of its approximation: over this many deviations on each
#: axis, slopes are at most `LEVEL`, and second derivatives -1 within `ROUND`.
STEP, LEVEL, ROUND = 0.1, 0.1, 0.5

#: Modes that are nearer to each other than this, in the deviations of either, are the same. (A narrow one may
#: lie within a wide one.)
SAME = 0.5

#: Modes whose mass is below exp(-this) of the largest are left out, as are points of the disc by height.
NEGLIGIBLE = 40.0

#: A search starts where the log density is so much above that of the modes found, in nats: at local maxima,
#: and anywhere in the disc, for there a point has no neighbours, and the tails of one mode may be heavy.
RISE, RISE_IN_PLANE = 0.05, 3.0

#: Such searches at most. In the plane, points that are nearer to the start of one than this share of their
#: distance from the first mode start none.
MOST_TRIES, APART = 8, 0.1


#: Where the data are in other units than the origin single coordinates are moved by these lengths, so often,
#: as long as each move gains so many nats for each dimension.
LENGTHS, MOVES, MUCH = 2.0 ** np.arange(-2, 21), 8, 10.0


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
_spacing = kernel(survey.spacing)


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
def log_density(found, n, point, row):
    """Log density at a point of Laplace's approximation at mode n, but for the powers of 2 pi."""
    value = found.log_masses[n] - half_log_det(found.factors[n])
    distance(found.means[n], found.factors[n], point, row)
    for i in range(row.size):
        value -= 0.5 * row[i] * row[i]
    return value


@kernel
def _is_known(found, count, gap):
    """Whether the mode in row `count` is one of those before it."""
    means, factors = found.means, found.factors
    for n in range(count):
        apart = distance(means[n], factors[n], means[count], gap)
        if max(apart, distance(means[count], factors[count], means[n], gap)) <= SAME:
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


@kernel
def _is_near(latent, one, other):
    """Whether two points around the first mode are so near that no search starts from both."""
    if latent == 1:
        return one == other
    x, y = survey.PLANE[0, one], survey.PLANE[1, one]
    return math.hypot(x - survey.PLANE[0, other], y - survey.PLANE[1, other]) < APART * math.hypot(x, y)


@kernel
def _is_explained(found, count, height, point, gap):
    """Whether one of the modes has the log density so high at a point."""
    latent = gap.size
    rise, log_unit = RISE if latent == 1 else RISE_IN_PLANE, 0.5 * latent * LOG_2PI
    for k in range(count):
        if height + log_unit <= log_density(found, k, point, gap) + rise:
            return True
    return False


@kernel
def unexplained(found, count, heights, tried, tries, gap):
    """The highest point whose log density is above that of the modes found, to start a search from; -1: none.

    Parameters
    ----------
    found : Modes
        The points are around the first, see `survey`.
    count : int
    heights : ndarray
        The log densities there.
    tried : ndarray
        Points that searches have started from, as many as `tries`.
    gap : ndarray (R,)
        Overwritten.
    """
    latent, best, top, highest = gap.size, -1, -math.inf, -math.inf
    for k in range(count):
        highest = max(highest, found.log_masses[k] - half_log_det(found.factors[k]))
    point, left = np.empty(latent), heights
    if latent > 1:
        # Beside a point of one mode there may be higher ones of another, which is known. (Of 1,042 modes with
        # one to four others ten were missed where these counted, and two are.)
        left = heights.copy()
        for n in range(survey.IN_DISC, heights.size):
            survey.place(n, n + 1, found.means[0], found.factors[0], point.reshape((1, latent)))
            if heights[n] > -math.inf and _is_explained(found, count, heights[n], point, gap):
                left[n] = -math.inf
    for n in range(1, heights.size - 1):
        if not left[n] > top:
            continue
        if latent == 1:
            is_new = heights[n - 1] < heights[n] >= heights[n + 1]
        elif n < survey.IN_DISC:
            is_new = heights[n] + 0.5 * latent * LOG_2PI > highest - NEGLIGIBLE
        else:
            is_new = survey.is_peak(n, left)
        if is_new and (latent == 1 or n < survey.IN_DISC):
            survey.place(n, n + 1, found.means[0], found.factors[0], point.reshape((1, latent)))
            is_new = not _is_explained(found, count, heights[n], point, gap)
        for t in range(tries):
            is_new = is_new and not _is_near(latent, n, tried[t])
        if is_new:
            best, top = n, heights[n]
    return best


@inlined
def _search(log_joint, problem, mean, factor, scale, panel, space):
    """(Whether there is a mode that is found from `mean`; the log of its mass). Writes it.

    `scale` has first guesses of the deviations.
    """
    status, _ = laplace(log_joint, problem, mean, scale, factor, panel, space)
    if status != FINE:
        return False, -math.inf
    return _at_mode(log_joint, problem, mean, factor, panel)


@kernel
def _is_finite(point):
    for x in point:
        if not abs(x) < math.inf:
            return False
    return True


@inlined
def find(log_joint, problem, found, starts, heights, scale, panel, space):
    """Write the modes that are found, of which the first row has a first approximation; how many they are.

    In `heights` are then the log densities of `survey.take` around the first approximation.

    Parameters
    ----------
    log_joint, problem
        See `models.calling`, and a `Problem`.
    found : Modes
    starts : ndarray (starts_of(R), R)
        Overwritten, as is `scale` (R,).
    heights : ndarray (survey.count_of(R),)
    panel, space
        A `Panel`, and scratch space of `laplace`.
    """
    means, factors, log_masses = found.means, found.factors, found.log_masses
    write_starts(means[0], factors[0], starts)
    count, tries, tried, searches = 1, 0, np.empty(MOST_TRIES, np.int64), 1 + starts.shape[0]
    # One call of the search, which is inlined: with three this kernel is twice as large.
    for n in range(searches + MOST_TRIES):
        # A first guess of the deviations that is much too large takes a narrow mode beside another one for as
        # wide as that.
        guess = 1.0
        if n == 0:
            # The first search goes on from the first approximation, and says what mass it has.
            copy_vector(means[0], means[1])
        elif n < searches:
            copy_vector(starts[n - 1], means[count])
            if not _is_finite(means[count]):
                continue
        else:
            if n == searches:
                survey.take(log_joint, problem, means[0], factors[0], panel, heights)
            point = unexplained(found, count, heights, tried, tries, scale) if count < log_masses.size else -1
            if point < 0:
                break
            tried[tries] = point
            tries += 1
            survey.place(point, point + 1, means[0], factors[0], means[count : count + 1])
            guess = _spacing(point, factors[0])
        fill_vector(guess, scale)
        is_mode, log_mass = _search(log_joint, problem, means[count], factors[count], scale, panel, space)
        if n == 0:
            log_masses[0] = log_mass
            continue
        log_masses[count] = log_mass
        if is_mode and not _is_known(found, count, scale):
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
