"""The log evidence, and the divergence of q from the posterior, by quadrature over one or two whole axes.

The trapezoid rule in t on each axis xi = sinh t of a frame. Gaussian tails then take a few nodes, and tails
that fall like a power of xi, which are exponential in t, a few more. Used by `fastvi.log_evidence` and
`fastvi.decompose`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector
from ..compiler import inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..models import evaluation
from ..models.evaluation import BLOCK, Panel, evaluate, evaluate_or_zero, point_out
from ..models.supports import at_a_bound, is_real
from ..numerics.error_free import add_compensated
from ..numerics.matrices import fill_vector, half_log_det, solve_lower
from ..statuses import FINE, INFINITE, NOT_A_NUMBER, RAISED
from .expectations import SHIFT, lattice_error, steps_within
from .modes import Modes, log_density

#: The range of abs(t) on an axis at first and at most: sinh(3) = 10, sinh(60) = 6e25.
REACH = 3.0
LARGEST_REACH = 60.0

#: Beyond this range tails are powers. In the plane these may lie along a curve, on which nodes are rare: the
#: mass of the outer part, a growth of the range, must then be negligible. (Of a normal density with a gamma
#: precision the outer shells were empty at t = 15, and 6e-11 beyond.)
POWERS = 6.0

#: The range grows by this share, and at least by 1.
GROWTH = 0.25

#: The first step. It is halved until two sums agree.
STEP = 0.25

#: How far a lattice is shifted on the second axis, in shifts of the first. Far out it is a lattice in log xi:
#: where tails are powers, equal shifts only scale it, and two sums were off by 3.8e-6 that differed by 1e-13.
OTHER_SHIFT = 0.5

#: Lattices that are tried at most.
MOST_ROUNDS = 80

#: The outer shells do not shrink where their ratio is above this: the error is then infinite.
MOST_RATIO = 0.98

#: Error of the integral at the bounds of the support, where z has few digits, as a share of what was found.
EDGE = 2.0

#: q's mass at a node below which a joint of zero is ignored there.
FAR = 1e-13

#: Nodes beyond which nothing is refined: 20 ms; of a part, for which there is another way; of a lattice that
#: only confirms another.
MOST_NODES, MOST_OF_PART, MOST_OF_CHECK = 2_000_000, 100_000, 300_000

#: The range is wide enough, and the step small enough, where what is outside, and what a halving changes, are
#: these shares of the error that is allowed.
OUTSIDE, CHANGE = 0.01, 0.5

#: Rounding of a sum, and what the root of its number of terms adds: a random walk (4e-14 was seen for 5e5); a
#: value of 0 has the rounding of terms of this size.
ROUNDING, WALK, TERMS = 8.8e-16, 5e-17, 8.0

#: See `rounding_of_nodes`: a third of the bound, for dozens of roundings partly cancel. (Of normal densities
#: a tenth of it was seen.)
OF_NODES = 0.3e-16

#: The integrand: the joint; q log(q / p) - q + p; q log(q / p), for a p that may lie far outside of q.
JOINT, KL, KL_OF_Q = 0, 1, 2

#: A log density in place of one that overflows: of an improper posterior.
OVERFLOWED = 1e300

#: See `Part`.
WHOLE, NONE = -1, -1.0

#: Densities of q: Gaussian in latent coordinates; truncated Gaussian in the model's own.
GAUSSIAN, TRUNCATED = 0, 1


def error_of_share(share):
    """The error of a log evidence of which such a share may be none. Plain, for Python calls it as well."""
    return -math.log1p(-share) if share < 1.0 else math.inf


class Workspace(NamedTuple):
    """Scratch space for integrals over R <= 2 latent dimensions."""

    panel: Panel
    weights: Vector  #: (BLOCK,) logarithms
    places: Matrix  #: (BLOCK, R) abs(t)
    shared: Vector  #: (BLOCK,) 1 for nodes of the lattice with twice the step, else 0
    row: Vector  #: (2,)
    mode: Vector  #: (R,)
    reach: Vector  #: (R,) of the lattice on each axis
    shells: Matrix  #: (R, 3), see `_sum`
    beyond: Vector  #: (R,) logs of masses, see `_beyond`


class Density(NamedTuple):
    """A density q."""

    kind: Any  #: GAUSSIAN or TRUNCATED
    mean: Any  #: (R,) or (1,) mu
    factor: Any  #: (R, R) or (1, 1) sigma
    interval: Any  #: (2,) of a truncated one
    log_mass: Any  #: in the interval


class Part(NamedTuple):
    """A part of p, which is divided among its modes by the densities of Laplace's approximations."""

    found: Modes
    which: Any  #: the mode; WHOLE for p itself
    near: Any  #: abs(t) up to which nodes of other parts are apart: there these should be Gaussian; else NONE


class Lattice(NamedTuple):
    """Nodes of the trapezoid rule: t = (i + shift) step on each axis, with abs(t) up to its reach."""

    step: Any
    shift: Any
    reach: Any  #: (R,)


@kernel
def workspace(latent, dim):
    """Scratch space for `latent` <= 2 dimensions of a model of `dim` coordinates."""
    return Workspace(
        evaluation.workspace(latent, dim),
        np.empty(BLOCK),
        np.empty((BLOCK, latent)),
        np.empty(BLOCK),
        np.empty(2),
        np.empty(latent),
        np.empty(latent),
        np.empty((latent, 3)),
        np.empty(latent),
    )


@inlined
def _lay(n, t, u, mean, factor, volume, space):
    """Write node n, where the sinh of the coordinates are t and u, and the logarithm of its weight."""
    node, x = space.panel.latent[n], math.sinh(t)
    node[0] = mean[0] + factor[0, 0] * x
    space.weights[n] = volume + math.log(math.cosh(t))
    if mean.size > 1:
        node[1] = mean[1] + factor[1, 0] * x + factor[1, 1] * math.sinh(u)
        space.weights[n] += math.log(math.cosh(u))


@kernel
def _fill(start, count, columns, rows, lattice, mean, factor, volume, space):
    """Write the nodes of a lattice from number `start` on, and the logarithms of weights."""
    step, shift = lattice.step, lattice.shift
    for n in range(count):
        i, j = (start + n) % (2 * columns + 1) - columns, (start + n) // (2 * columns + 1) - rows
        t, u = (i + shift) * step, (j + OTHER_SHIFT * shift) * step
        _lay(n, t, u, mean, factor, volume, space)
        space.places[n, 0] = abs(t)
        if mean.size > 1:
            space.places[n, 1] = abs(u)
        space.shared[n] = 1.0 if i % 2 == 0 and j % 2 == 0 else 0.0


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


class Sums(NamedTuple):
    """What one lattice says of an integral."""

    status: Any
    value: Any  #: log of the integral of the joint, or the divergence of q from p = joint / exp(total)
    halved: Any  #: what halving the step to this one has changed of it
    #: Terms where a coordinate of the model is at a bound of its support up to a few roundings, and what
    #: other parts have up to `Part.near` beyond Laplace's approximation; of the joint as shares of the sum.
    edge: Any
    near: Any
    nodes: Any


@inlined
def _nothing(status, value, nodes):
    """Of a lattice that has a fault, or no finite sum."""
    return Sums(status, value, math.inf, 0.0, 0.0, nodes)


@kernel
def log_share(found, which, point, row):
    """(Log of a mode's share of the density at a point, log of the density) of Laplace's approximations."""
    own, top, total = -math.inf, -math.inf, 0.0
    for n in range(found.log_masses.size):
        if found.log_masses[n] == -math.inf:
            continue
        value = log_density(found, n, point, row)
        if value > top:
            total, top = total * math.exp(top - value), value
        total += math.exp(value - top)
        own = value if n == which else own
    density = top + math.log(total)
    return own - density, density - 0.5 * row.size * LOG_2PI


@inlined
def _sum(log_joint, problem, mean, factor, lattice, q, integrand, total, part, space):
    """The `Sums` of one lattice; writes the sizes of terms in the outer shells of each axis.

    These are where abs(t) is between reach - 1 and reach - 1/2, above, and in the last growth of the reach;
    of the joint as shares of the sum.
    """
    dim, reach, shells = mean.size, lattice.reach, space.shells
    for i in range(dim):
        fill_vector(0.0, shells[i])
    columns = steps_within(reach[0], lattice.step)
    rows = steps_within(reach[1], lattice.step) if dim > 1 else 0
    nodes = (2 * columns + 1) * (2 * rows + 1)
    panel = space.panel
    volume = half_log_det(factor) + dim * math.log(lattice.step)
    top, s, lost, coarse, edge = -math.inf, 0.0, 0.0, 0.0, 0.0
    near_top, near = -math.inf, 0.0
    real = is_real(problem.kinds)
    for low in range(0, nodes, BLOCK):
        n = min(BLOCK, nodes - low)
        _fill(low, n, columns, rows, lattice, mean, factor, volume, space)
        if evaluate(log_joint, problem, n, panel) != FINE:
            return _nothing(RAISED, math.nan, nodes)
        for k in range(n):
            f = panel.log_joint[k] + panel.log_jacobian[k]
            if f != f and panel.log_joint[k] == panel.log_joint[k]:
                f = -math.inf  # the log joint falls, and the log-Jacobian overflowed
            if f == math.inf and panel.log_joint[k] < math.inf:
                f = OVERFLOWED  # the log-Jacobian alone
            if not f < math.inf:
                point_out(problem, k, panel)
                return _nothing(INFINITE if f == math.inf else NOT_A_NUMBER, math.nan, nodes)
            weight = space.weights[k]
            if integrand != JOINT:
                g = _log_density(q, k, panel, space.row)
                a, b = math.exp(g + weight), math.exp(f - total + weight)
                # Log joints that are logarithms of sums underflow far out, where the ELBO has no node.
                if a > FAR and f == -math.inf:
                    point_out(problem, k, panel)
                    return _nothing(FINE, math.inf, nodes)
                term = a * (g - f + total) if a > 0.0 and f > -math.inf else 0.0
                if integrand == KL:
                    term += b - a
            else:
                value = f + weight
                if value > top:
                    shrink = math.exp(top - value)
                    s, lost, coarse, edge = s * shrink, lost * shrink, coarse * shrink, edge * shrink
                    top = value
                    for i in range(dim):
                        for j in range(3):
                            shells[i, j] *= shrink
                term = math.exp(value - top) if value > -math.inf else 0.0
                if part.which != WHOLE:
                    share, density = log_share(part.found, part.which, panel.latent[k], space.mode)
                    if max(space.places[k, 0], space.places[k, dim - 1]) <= part.near:
                        high = max(f, density) + weight
                        if high > near_top:
                            near, near_top = near * math.exp(near_top - high), high
                        off = math.exp(f + weight - near_top) - math.exp(density + weight - near_top)
                        near -= abs(off) * math.expm1(share)
                    term *= math.exp(share)
            # Else a tail of millions of nodes rounds away term by term: 1e-12 of t distributions.
            s, lost = add_compensated(s, lost, term)
            coarse += term * space.shared[k]
            if not real and at_a_bound(problem.kinds, problem.bounds, panel.z[k]):
                edge += abs(term)
            for i in range(dim):
                t = space.places[k, i]
                if t > reach[i] - 0.5:
                    shells[i, 1] += abs(term)
                elif t > reach[i] - 1.0:
                    shells[i, 0] += abs(term)
                if t * (1.0 + GROWTH) > reach[i]:
                    shells[i, 2] += abs(term)
    s += lost
    coarse *= 2.0**dim
    if integrand != JOINT:
        return Sums(FINE, s, abs(s - coarse), edge, 0.0, nodes)
    near *= math.exp(near_top - top) if near > 0.0 else 0.0
    if s == 0.0:
        return _nothing(FINE, -math.inf if near == 0.0 else math.nan, nodes)
    halved = abs(math.log(coarse / s)) if coarse > 0.0 and part.which == WHOLE else abs(1.0 - coarse / s)
    for i in range(dim):
        for j in range(3):
            shells[i, j] /= s
    return Sums(FINE, top + math.log(s), halved, edge / s, near / s, nodes)


@kernel
def has_powers_in_the_plane(reach):
    """Whether tails in the plane are powers, by the reach of each axis that they take."""
    return reach.size > 1 and max(reach[0], reach[1]) > POWERS


@inlined
def _outside(space, axis, unit):
    """What is beyond the reach of an axis, by the geometric series that goes on from the outer shells."""
    shells, reach = space.shells[axis], space.reach[axis]
    inner, outer = unit * shells[0], unit * shells[1]
    ratio = outer / inner if inner > 0.0 else (1.0 if outer > 0.0 else 0.0)
    outside = outer * ratio / (1.0 - ratio) if ratio < MOST_RATIO else math.inf
    is_hidden = space.reach.size > 1 and POWERS < reach < LARGEST_REACH
    return max(outside, unit * shells[2]) if is_hidden else outside


@inlined
def _outside_of_all(space, unit, dim):
    """What is beyond the reach of one axis or more, by the outer shells; `unit` is that of these."""
    outside = 0.0
    for i in range(dim):
        outside += _outside(space, i, unit)
    return outside


@inlined
def _hidden(space, log_unit, dim):
    """What is beyond the reach of one axis or more, by the few nodes there."""
    hidden = 0.0
    for i in range(dim):
        hidden += math.exp(space.beyond[i] - log_unit)
    return hidden


@inlined
def _inner(reach):
    """The last node of a coarse axis that is not beyond a reach. Nodes are 1 apart up to there."""
    return math.ceil(reach) - 1.0


@kernel
def _side(reach):
    """How many nodes a coarse axis has on each side."""
    return int(_inner(reach) + math.floor(math.log(LARGEST_REACH / reach) / math.log1p(GROWTH)) + 1.0)


@kernel
def _coarse(i, reach):
    """(t, the way to the next node out) of node i of a coarse axis: beyond a reach this is `GROWTH` t."""
    t, way, inner = float(abs(i)), 1.0, _inner(reach)
    if t > inner:
        t = reach * (1.0 + GROWTH) ** (t - inner - 1.0)
        way = GROWTH * t
    return (t if i > 0 else -t), way


@kernel
def _on_the_way(way, here, next_out):
    """The integral of an exponential function over the way to the next node, as a multiple of that here."""
    drop = here - next_out
    return -way * math.expm1(-drop) / drop if 0.0 < drop < math.inf else way


@inlined
def _beyond(log_joint, problem, mean, factor, reach, part, space):
    """Write the log of the mass beyond the reach of each axis, by few nodes: `space.beyond`. How many.

    In the plane it may be half of that.

    The outer shells do not tell where a tail begins that is hidden by a thinner one: of 0.9 logistic + 0.1 t,
    70 times narrower and with three degrees of freedom, they miss 1e-11. Tails are exponential in t between
    nodes, as are powers.
    """
    dim, panel, top = mean.size, space.panel, -math.inf
    side = (_side(reach[0]), _side(reach[1]) if dim > 1 else 0)
    across = (2 * side[0] + 1, 2 * side[1] + 1)
    count = across[0] * across[1]
    terms, volume = np.empty(count), half_log_det(factor)
    for low in range(0, count, BLOCK):
        rows = min(BLOCK, count - low)
        for n in range(rows):
            t, _ = _coarse((low + n) % across[0] - side[0], reach[0])
            u, _ = (0.0, 0.0) if dim == 1 else _coarse((low + n) // across[0] - side[1], reach[1])
            _lay(n, t, u, mean, factor, volume, space)
        evaluate_or_zero(log_joint, problem, rows, panel)
        for n in range(rows):
            terms[low + n] = panel.values[n] + space.weights[n]
            if part.which != WHOLE:
                terms[low + n] += log_share(part.found, part.which, panel.latent[n], space.mode)[0]
            top = max(top, terms[low + n])
    fill_vector(0.0, space.beyond)
    for n in range(count):
        if terms[n] == -math.inf:
            continue
        mass, stride = math.exp(terms[n] - top), 1
        for i in range(dim):
            place = n // stride % across[i] - side[i]
            t, way = _coarse(place, reach[i])
            space.mode[i] = abs(t)
            if abs(t) >= reach[i] and abs(place) < side[i]:
                way = _on_the_way(way, terms[n], terms[n + (stride if place > 0 else -stride)])
            mass *= way
            stride *= across[i]
        for i in range(dim):
            if space.mode[i] >= reach[i]:
                space.beyond[i] += mass
    for i in range(dim):
        space.beyond[i] = top + math.log(space.beyond[i]) if space.beyond[i] > 0.0 else -math.inf
    return count


@kernel
def rounding_of_nodes(part, value, row):
    """What the integral of modes may be off by where nodes round, as a share of it.

    Of a normal density f on a line, around m, the sum of abs(f' dz) is at most 2^-53 abs(m) 2 f(m).
    """
    found, total = part.found, 0.0
    for n in range(found.log_masses.size):
        if part.which != WHOLE and part.which != n:
            continue
        share = math.exp(min(found.log_masses[n] - value, 0.0)) if part.which == WHOLE else 1.0
        mean, factor = found.means[n], found.factors[n]
        for i in range(row.size):
            row[i] = abs(mean[i])
            for j in range(i):
                row[i] += abs(factor[i, j]) * row[j]
            row[i] /= factor[i, i]
            total += share * row[i]
    return OF_NODES * total


@kernel
def integrate(log_joint, problem, mean, factor, step, most, rtol, q, integrand, total, part, space):
    """The log of the integral of the joint, or q's divergence from p: (status, value, error, nodes, step).

    `integrand` is JOINT, KL or KL_OF_Q, `total` the log evidence that p is normalised with. Of a part of the
    joint, `total` is the log of what other parts have, and the error is relative to the larger of the two.

    The lattice starts with a step and with the reach in the workspace, and ends with those that are returned
    and there. The reach of an axis grows until its outer shells are negligible; where they do not shrink, the
    error is infinite. The step halves until two sums agree, and a lattice that is shifted confirms the last.
    Nothing is refined beyond `most` nodes. `rtol` is relative to 1 + abs(value).
    """
    dim, reach, is_part = mean.size, space.reach, part.which != WHOLE
    nodes, value, scale, unit, unit_of_p = 0, math.nan, math.nan, math.nan, math.nan
    change, last, off, outside = math.inf, math.inf, math.inf, math.inf
    is_new, shift = True, 0.0
    fill_vector(-math.inf, space.beyond)
    for _ in range(MOST_ROUNDS):
        lattice = Lattice(step, shift, reach)
        new = _sum(log_joint, problem, mean, factor, lattice, q, integrand, total, part, space)
        nodes += new.nodes
        if new.status != FINE:
            return new.status, math.nan, math.inf, nodes, step
        if shift > 0.0:
            off = abs(unit - math.exp(new.value - scale)) if is_part else abs(new.value - value)
            break
        value = new.value
        if not abs(value) < math.inf:
            return FINE, value, 0.0 if value == value else math.inf, nodes, step
        scale = max(value, total) if is_part else value
        unit = math.exp(value - scale)
        allowed = rtol * (1.0 + abs(scale))
        if unit * new.near > allowed:
            return FINE, value, math.inf, nodes, step
        unit_of_p = total if integrand == KL else scale
        outside = _outside_of_all(space, unit, dim)
        if is_new and outside <= OUTSIDE * allowed and integrand != KL_OF_Q:
            nodes += _beyond(log_joint, problem, mean, factor, reach, part, space)
            is_new = False
        has_grown = False
        for i in range(dim):
            beyond = max(_outside(space, i, unit), math.exp(space.beyond[i] - unit_of_p))
            if beyond > OUTSIDE * allowed / dim and reach[i] < LARGEST_REACH and new.nodes <= most:
                reach[i] = min(reach[i] + max(1.0, GROWTH * reach[i]), LARGEST_REACH)
                has_grown = True
        if has_grown:
            fill_vector(-math.inf, space.beyond)
            is_new = True
            continue
        outside = max(outside, _hidden(space, unit_of_p, dim))
        if outside == math.inf:
            return FINE, value, outside, nodes, step
        last, change = change, unit * new.halved
        if change <= CHANGE * max(allowed, outside) or new.nodes * 2.0**dim > most:
            shift = SHIFT
        else:
            step *= 0.5
    largest = abs(scale) + (0.0 if is_part else abs(total))
    rounding = (ROUNDING + WALK * math.sqrt(new.nodes)) * (TERMS + largest)
    rounding += unit * rounding_of_nodes(part, value, space.row[: mean.size])
    rest = rounding + outside + unit * (EDGE * new.edge + new.near)
    return FINE, value, lattice_error(change, last, off, rest) + rest, nodes, step
