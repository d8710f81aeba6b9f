"""Laplace's approximation from values of the log joint alone: the start of fits, and their scale.

Newton's method on finite differences. Their steps are found first: along each coordinate one over which the
second difference is near DROP, about a fifth of the conditional standard deviation, whatever the units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector
from ..compiler import inlined, kernel
from ..models.evaluation import density, evaluate
from ..numerics.matrices import cholesky, precisions, solve_lower, solve_upper
from ..statuses import FINE, RAISED

#: Dimensions up to which all second derivatives are taken.
DENSE = 64

#: Newton steps; tries for the differences' steps, of which so many change them by full factors.
MOST_STEPS = 60
MOST_TRIES = 40
QUICK_TRIES = 12

#: A second difference is near what is wanted between these multiples of it.
LEAST_DROP, MOST_DROP = 0.04, 20.0

#: Factors that bound one change of a step; and that of a step over which the log joint is not finite.
LEAST_CHANGE, MOST_CHANGE, INWARD = 0.2, 3.0, 0.1

#: The exponent of these factors shrinks by this per try after QUICK_TRIES, so that they cannot oscillate.
PATIENCE = 0.8

#: The second difference wanted, in nats: a larger one has less rounding error, a smaller one less bias.
DROP = 0.05

#: A second difference of 0 counts as this one, so that the step grows; and one below which a coordinate of a
#: precision that is not positive definite keeps its scale.
TINY_DROP, NO_DROP = 1e-300, 1e-6

#: The least second difference relative to the values: four of its digits are right.
NOISE = 1e-12

#: Half the squared length, in standard deviations, of the last step, and of one that ends the search when it
#: had to be shortened.
CLOSE = 1e-3
CLOSE_ENOUGH = 0.02

#: The line search: the increase that a step must have, as a share of what its derivative promises; the factor
#: that it is shortened by; how often; and the part of a Newton step that ends the search for the mode.
INCREASE = 1e-4
SHRINK = 0.3
MOST_SHRINKS = 30
LEAST_STEP = 1e-3

#: Damping of a precision that is not positive definite: the first, the factor to the next, how many; and what
#: is added to the size of a diagonal entry that it multiplies.
FIRST_DAMPING, STIFFER, MOST_DAMPINGS = 1e-3, 4.0, 40
LEAST_DIAGONAL = 1e-3


class Workspace(NamedTuple):
    """Scratch space for D latent coordinates; of the matrices there are at most DENSE rows."""

    sides: Matrix  #: (2, D) values at plus and minus a step along each coordinate
    gradient: Vector  #: (D,) in units of the steps, as all below
    step: Vector  #: (D,)
    trial: Vector  #: (D,)
    precision: Matrix  #: (D, D) minus the second derivatives
    factor: Matrix  #: (D, D) of the damped precision


@kernel
def workspace(dim):
    """Scratch space for `laplace`."""
    side = min(dim, DENSE)
    return Workspace(
        np.empty((2, dim)),
        np.empty(dim),
        np.empty(dim),
        np.empty(dim),
        np.empty((side, side)),
        np.empty((side, side)),
    )


@inlined
def _sides(log_joint, problem, centre, scale, panel, sides):
    """Write the log density a step away along each coordinate, either side; FINE or RAISED."""
    dim = centre.size
    half = panel.latent.shape[0] // 2
    for low in range(0, dim, half):
        n = min(half, dim - low)
        for k in range(n):
            for i in range(dim):
                panel.latent[2 * k, i] = centre[i]
                panel.latent[2 * k + 1, i] = centre[i]
            panel.latent[2 * k, low + k] += scale[low + k]
            panel.latent[2 * k + 1, low + k] -= scale[low + k]
        if evaluate(log_joint, problem, 2 * n, panel) != FINE:
            return RAISED
        for k in range(n):
            sides[0, low + k] = panel.log_joint[2 * k] + panel.log_jacobian[2 * k]
            sides[1, low + k] = panel.log_joint[2 * k + 1] + panel.log_jacobian[2 * k + 1]
    return FINE


@inlined  # else LLVM does so or not by the order in which it links modules, and 15 searches take 5 µs or 20
def calibrate(log_joint, problem, centre, value, scale, panel, sides):
    """Find steps over which the second difference is near DROP; (status, evaluations)."""
    used = 0
    # Far from the mode the values are so large that a small difference is below their rounding.
    wanted = max(DROP, NOISE * abs(value))
    for k in range(MOST_TRIES):
        patience = PATIENCE ** max(k - QUICK_TRIES, 0)
        status = _sides(log_joint, problem, centre, scale, panel, sides)
        used += 2 * centre.size
        if status != FINE:
            return status, used
        moved = False
        for i in range(centre.size):
            drop = abs(2.0 * value - sides[0, i] - sides[1, i])
            if not drop < math.inf:
                scale[i] *= INWARD**patience
                moved = True
            elif not LEAST_DROP * wanted <= drop <= MOST_DROP * wanted:
                change = math.sqrt(wanted / max(drop, TINY_DROP))
                scale[i] *= min(max(change, LEAST_CHANGE), MOST_CHANGE) ** patience
                moved = True
        if not moved:
            break
    return FINE, used


@inlined
def _mixed(log_joint, problem, centre, value, scale, panel, sides, precision):
    """Write minus the second derivatives off the diagonal, in units of the steps; (status, evaluations)."""
    dim = centre.size
    values, log_jacobian = panel.log_joint, panel.log_jacobian
    used = 0
    for a in range(dim):
        for b in range(a):
            for i in range(dim):
                panel.latent[2 * b, i] = centre[i]
                panel.latent[2 * b + 1, i] = centre[i]
            panel.latent[2 * b, a] += scale[a]
            panel.latent[2 * b, b] += scale[b]
            panel.latent[2 * b + 1, a] -= scale[a]
            panel.latent[2 * b + 1, b] -= scale[b]
        if a > 0 and evaluate(log_joint, problem, 2 * a, panel) != FINE:
            return RAISED, used
        used += 2 * a
        for b in range(a):
            s = values[2 * b] + log_jacobian[2 * b] + values[2 * b + 1] + log_jacobian[2 * b + 1]
            s -= sides[0, a] + sides[1, a] + sides[0, b] + sides[1, b] - 2.0 * value
            precision[a, b] = -0.5 * s if abs(s) < math.inf else 0.0
    return FINE, used


@kernel
def _factorise(precision, factor, dim):
    """Factor the precision, damped until it is positive definite; the damping."""
    damping = 0.0
    for _ in range(MOST_DAMPINGS):
        for i in range(dim):
            for j in range(i):
                factor[i, j] = precision[i, j]
            factor[i, i] = precision[i, i] + damping * (abs(precision[i, i]) + LEAST_DIAGONAL)
        if cholesky(factor, factor):
            return damping
        damping = max(STIFFER * damping, FIRST_DAMPING)
    for i in range(dim):
        for j in range(dim):
            factor[i, j] = 1.0 if i == j else 0.0
    return math.inf


@inlined
def laplace(log_joint, problem, mean, scale, chol, panel, space):
    """Move `mean` to a mode and write the Cholesky factor of the covariance there; (status, evaluations).

    `scale` holds first guesses of the standard deviations, and is overwritten with the conditional ones. For
    up to DENSE dimensions.
    """
    dim = mean.size
    sides, gradient, step = space.sides, space.gradient, space.step
    trial, precision, factor = space.trial, space.precision, space.factor
    status, value = density(log_joint, problem, mean, panel)
    used, damping = 1, 0.0
    if status != FINE:
        return status, used
    for _ in range(MOST_STEPS):
        status, n = calibrate(log_joint, problem, mean, value, scale, panel, sides)
        used += n
        if status != FINE:
            return status, used
        for i in range(dim):
            gradient[i] = 0.5 * (sides[0, i] - sides[1, i])
            precision[i, i] = 2.0 * value - sides[0, i] - sides[1, i]
            if not abs(gradient[i]) < math.inf:
                gradient[i], precision[i, i] = 0.0, 1.0
        status, n = _mixed(log_joint, problem, mean, value, scale, panel, sides, precision)
        used += n
        if status != FINE:
            return status, used
        damping = _factorise(precision, factor, dim)
        for i in range(dim):
            step[i] = gradient[i]
        solve_lower(factor, step)
        solve_upper(factor, step)
        decrement = 0.0
        for i in range(dim):
            decrement += step[i] * gradient[i]
        if decrement < 2.0 * CLOSE and damping == 0.0:
            for i in range(dim):
                mean[i] += scale[i] * step[i]
            break
        t, climbed = 1.0, False
        for _ in range(MOST_SHRINKS):
            for i in range(dim):
                trial[i] = mean[i] + t * scale[i] * step[i]
            status, new = density(log_joint, problem, trial, panel)
            used += 1
            if status == RAISED:
                return status, used
            if status == FINE and new >= value + INCREASE * t * decrement:
                climbed = True
                break
            t *= SHRINK
        if not climbed:
            break
        if t < 1.0 and decrement < 2.0 * CLOSE_ENOUGH:
            # The bias of the differences points past the mode; a start need not be nearer.
            break
        value = new
        for i in range(dim):
            mean[i] = trial[i]
        # The direction from the differences is no longer uphill: their bias does not allow to come nearer.
        if t < LEAST_STEP:
            break
    if damping == 0.0:
        _invert(factor, chol, dim)
        for i in range(dim):
            for j in range(i + 1):
                chol[i, j] *= scale[i]
        conditional(chol, scale, step)
        return FINE, used
    # The precision is not positive definite: its diagonal alone is used, by absolute values.
    status, n = calibrate(log_joint, problem, mean, value, scale, panel, sides)
    for i in range(dim):
        for j in range(dim):
            chol[i, j] = 0.0
        drop = abs(2.0 * value - sides[0, i] - sides[1, i])
        scale[i] /= math.sqrt(drop) if NO_DROP < drop < math.inf else 1.0
        chol[i, i] = scale[i]
    return status, used + n


@kernel
def _invert(factor, chol, dim):
    """Write the Cholesky factor of the inverse of factor factor'."""
    # The columns of the inverse, which is then factored in place.
    for j in range(dim):
        for i in range(dim):
            chol[i, j] = 1.0 if i == j else 0.0
        solve_lower(factor, chol[:, j])
        solve_upper(factor, chol[:, j])
    if not cholesky(chol, chol):
        for i in range(dim):
            for j in range(dim):
                chol[i, j] = 0.0
            chol[i, i] = 1.0 / factor[i, i]


@kernel
def conditional(chol, scale, space):
    """Write the standard deviations of each coordinate given the others: 1 / sqrt(Lambda_ii)."""
    precisions(chol, scale, space)
    for i in range(scale.size):
        scale[i] = 1.0 / math.sqrt(scale[i])
