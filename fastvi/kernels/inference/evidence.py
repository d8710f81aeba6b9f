"""The log evidence, and the divergence of q from the posterior, by quadrature over one or two whole axes.

The trapezoid rule in t on each axis xi = sinh t of a frame. Gaussian tails then take a few nodes, and tails
that fall like a power of xi, which are exponential in t, a few more. Used by `fastvi.log_evidence` and
`fastvi.decompose`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Vector
from ..compiler import inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..models import evaluation
from ..models.evaluation import BLOCK, Panel, evaluate, point_out
from ..models.supports import at_a_bound, is_real
from ..numerics.matrices import half_log_det, solve_lower
from ..statuses import FINE, INFINITE, NOT_A_NUMBER, RAISED
from .expectations import SHIFT, lattice_error, steps_within

#: The range of abs(t) at first and at most: sinh(3) = 10, sinh(60) = 6e25.
REACH = 3.0
LARGEST_REACH = 60.0

#: The range grows by this share, and at least by 1.
GROWTH = 0.25

#: The first step. It is halved until two sums agree.
STEP = 0.25

#: Lattices that are tried at most.
MOST_ROUNDS = 80

#: The outer shells do not shrink where their ratio is above this: the error is then infinite.
MOST_RATIO = 0.98

#: Error of the integral at the bounds of the support, where z has few digits, as a share of what was found.
EDGE = 2.0

#: q's mass at a node below which a joint of zero is ignored there.
FAR = 1e-13

#: Nodes beyond which nothing is refined: 20 ms.
MOST_NODES = 2_000_000

#: The range is wide enough, and the step small enough, where what is outside, and what a halving changes, are
#: these shares of the error that is allowed.
OUTSIDE, CHANGE = 0.01, 0.5

#: Rounding of a sum, and what the root of its number of terms adds: a random walk (4e-14 was seen for 5e5); a
#: value of 0 has the rounding of terms of this size.
ROUNDING, WALK, TERMS = 8.8e-16, 5e-17, 8.0

#: Error of an integral that is good enough to confirm another one.
KNOWN = 1e-3

#: An integral that is so many nats below Laplace's approximation of a part of it has missed that part.
LESS_THAN_A_MODE = 3.0

#: The integrand: the joint; q log(q / p) - q + p; q log(q / p), for a p that may lie far outside of q.
JOINT, KL, KL_OF_Q = 0, 1, 2

#: Densities of q: Gaussian in latent coordinates; truncated Gaussian in the model's own.
GAUSSIAN, TRUNCATED = 0, 1


def confirms(value, error, other, other_error):
    """Whether another integral has found the same as one, and finds it better.

    Plain, for Python calls it as well.
    """
    return other_error < error and abs(other - value) <= other_error + error


def misses(value, log_mass):
    """Whether a log evidence lacks a mode of this mass. Plain, for Python calls it as well."""
    return value < log_mass - LESS_THAN_A_MODE


def error_of_share(share):
    """The error of a log evidence of which such a share may be none. Plain, for Python calls it as well."""
    return -math.log1p(-share) if share < 1.0 else math.inf


class Workspace(NamedTuple):
    """Scratch space for integrals over R <= 2 latent dimensions."""

    panel: Panel
    weights: Vector  #: (BLOCK,) logarithms
    places: Vector  #: (BLOCK,) the largest abs(t)
    row: Vector  #: (2,)


class Density(NamedTuple):
    """A density q."""

    kind: Any  #: GAUSSIAN or TRUNCATED
    mean: Any  #: (R,) or (1,) mu
    factor: Any  #: (R, R) or (1, 1) sigma
    interval: Any  #: (2,) of a truncated one
    log_mass: Any  #: in the interval


class Lattice(NamedTuple):
    """Nodes of the trapezoid rule: t = (i + shift) step on each axis, with abs(t) up to a reach."""

    step: Any
    shift: Any
    reach: Any


@kernel
def workspace(latent, dim):
    """Scratch space for `latent` <= 2 dimensions of a model of `dim` coordinates."""
    return Workspace(evaluation.workspace(latent, dim), np.empty(BLOCK), np.empty(BLOCK), np.empty(2))


@kernel
def _fill(start, count, columns, rows, lattice, mean, factor, space):
    """Write the nodes of a lattice from number `start` on, and the logarithms of weights."""
    step, shift = lattice.step, lattice.shift
    nodes = space.panel.latent
    for n in range(count):
        i, j = (start + n) % (2 * columns + 1) - columns, (start + n) // (2 * columns + 1) - rows
        t, u = (i + shift) * step, (j + shift) * step
        x = math.sinh(t)
        weight = math.log(math.cosh(t) * step)
        if mean.size == 1:
            nodes[n, 0] = mean[0] + factor[0, 0] * x
        else:
            y = math.sinh(u)
            weight += math.log(math.cosh(u) * step)
            nodes[n, 0] = mean[0] + factor[0, 0] * x
            nodes[n, 1] = mean[1] + factor[1, 0] * x + factor[1, 1] * y
        space.weights[n] = weight
        space.places[n] = max(abs(t), abs(u))


@kernel
def _log_density(q, n, panel, row):
    """Log density of q at point n of a panel, in latent coordinates."""
    mean, factor = q.mean, q.factor
    dim = mean.size
    if q.kind == TRUNCATED:
        z = panel.z[n, 0]
        if not q.interval[0] <= z <= q.interval[1]:
            return -math.inf
        square = ((z - mean[0]) / factor[0, 0]) ** 2
        return -0.5 * (square + LOG_2PI) - math.log(factor[0, 0]) - q.log_mass + panel.log_jacobian[n]
    for i in range(dim):
        row[i] = panel.latent[n, i] - mean[i]
    solve_lower(factor, row[:dim])
    square = 0.0
    for i in range(dim):
        square += row[i] * row[i]
    return -0.5 * (square + dim * LOG_2PI) - half_log_det(factor)


@inlined
def _sum(log_joint, problem, mean, factor, lattice, q, integrand, total, space):
    """On one lattice, log of the integral of the joint, or the divergence of q from p = joint / exp(total).

    Returned: (status, value, inner shell, outer shell, edge, nodes). The shells are the terms with max(|t|)
    between reach - 1 and reach - 1/2, and above, the edge those where a coordinate of the model is at a bound
    of its support up to a few roundings; of the joint as shares of the sum.
    """
    dim = mean.size
    reach = lattice.reach
    columns = steps_within(reach, lattice.step)
    rows = columns if dim > 1 else 0
    nodes = (2 * columns + 1) * (2 * rows + 1)
    panel = space.panel
    volume = half_log_det(factor)
    top, s, one, two, edge = -math.inf, 0.0, 0.0, 0.0, 0.0
    real = is_real(problem.kinds)
    for low in range(0, nodes, BLOCK):
        n = min(BLOCK, nodes - low)
        _fill(low, n, columns, rows, lattice, mean, factor, space)
        if evaluate(log_joint, problem, n, panel) != FINE:
            return RAISED, math.nan, 0.0, 0.0, 0.0, nodes
        for k in range(n):
            f = panel.log_joint[k] + panel.log_jacobian[k]
            if f != f and panel.log_joint[k] == panel.log_joint[k]:
                f = -math.inf  # the log joint falls, and the log-Jacobian overflowed
            if not f < math.inf:
                point_out(problem, k, panel)
                return (INFINITE if f == math.inf else NOT_A_NUMBER), math.nan, 0.0, 0.0, 0.0, nodes
            weight = space.weights[k] + volume
            if integrand != JOINT:
                g = _log_density(q, k, panel, space.row)
                a, b = math.exp(g + weight), math.exp(f - total + weight)
                # Log joints that are logarithms of sums underflow far out, where the ELBO has no node.
                if a > FAR and f == -math.inf:
                    point_out(problem, k, panel)
                    return FINE, math.inf, 0.0, 0.0, 0.0, nodes
                term = a * (g - f + total) if a > 0.0 and f > -math.inf else 0.0
                if integrand == KL:
                    term += b - a
            else:
                value = f + weight
                if value > top:
                    shrink = math.exp(top - value)
                    s, one, two, edge, top = s * shrink, one * shrink, two * shrink, edge * shrink, value
                term = math.exp(value - top) if value > -math.inf else 0.0
            s += term
            if not real and at_a_bound(problem.kinds, problem.bounds, panel.z[k]):
                edge += abs(term)
            if space.places[k] > reach - 0.5:
                two += abs(term)
            elif space.places[k] > reach - 1.0:
                one += abs(term)
    if integrand != JOINT:
        return FINE, s, one, two, edge, nodes
    if s == 0.0:
        return FINE, -math.inf, 0.0, 0.0, 0.0, nodes
    return FINE, top + math.log(s), one / s, two / s, edge / s, nodes


@inlined
def integrate(log_joint, problem, mean, factor, rtol, q, integrand, total, space):
    """(status, value, error, nodes) of the log of the integral of the joint, or of q's divergence from p.

    `integrand` is JOINT, KL or KL_OF_Q, `total` the log evidence that p is normalised with.

    The reach grows until the outer shells are negligible; where they do not shrink, the error is infinite.
    The step halves until two sums agree, and a lattice that is shifted confirms the last. `rtol` is relative
    to 1 + abs(value).
    """
    reach, step = REACH, STEP
    nodes, value, change, last = 0, math.nan, math.inf, math.inf
    widening, outside, shift, off = True, math.inf, 0.0, math.inf
    for _ in range(MOST_ROUNDS):
        lattice = Lattice(step, shift, reach)
        status, new, one, two, edge, n = _sum(
            log_joint, problem, mean, factor, lattice, q, integrand, total, space
        )
        nodes += n
        if status != FINE:
            return status, math.nan, math.inf, nodes
        if shift > 0.0:
            off = abs(new - value)
            break
        if new == math.inf or new == -math.inf:
            return FINE, new, 0.0, nodes
        scale = 1.0 + abs(new)
        ratio = two / one if one > 0.0 else (1.0 if two > 0.0 else 0.0)
        outside = two * ratio / (1.0 - ratio) if ratio < MOST_RATIO else math.inf
        if widening:
            value = new
            if outside <= OUTSIDE * rtol * scale:
                widening = False
                step *= 0.5
                continue
            if reach >= LARGEST_REACH or n > MOST_NODES:
                return FINE, value, outside + EDGE * edge, nodes
            reach = min(reach + max(1.0, GROWTH * reach), LARGEST_REACH)
            continue
        last, change = change, abs(new - value)
        value = new
        if change <= CHANGE * rtol * scale or n * 2.0**mean.size > MOST_NODES:
            shift = SHIFT
        else:
            step *= 0.5
    rounding = (ROUNDING + WALK * math.sqrt(n)) * (TERMS + abs(value) + abs(total))
    return FINE, value, lattice_error(change, last, off) + outside + EDGE * edge + rounding, nodes
