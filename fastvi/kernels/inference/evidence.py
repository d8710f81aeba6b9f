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
from ..models.evaluation import BLOCK, Panel, evaluate, evaluate_or_zero, point_out
from ..models.supports import at_a_bound, is_real
from ..numerics.error_free import add_compensated
from ..numerics.matrices import half_log_det, solve_lower
from ..statuses import FINE, INFINITE, NOT_A_NUMBER, RAISED
from .expectations import SHIFT, lattice_error, steps_within
from .modes import Modes, log_density

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

#: Nodes beyond which nothing is refined: 20 ms; of a part, for which there is another way.
MOST_NODES, MOST_OF_PART = 2_000_000, 100_000

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
    places: Vector  #: (BLOCK,) the largest abs(t)
    shared: Vector  #: (BLOCK,) 1 for nodes of the lattice with twice the step, else 0
    row: Vector  #: (2,)
    mode: Vector  #: (R,)


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
    """Nodes of the trapezoid rule: t = (i + shift) step on each axis, with abs(t) up to a reach."""

    step: Any
    shift: Any
    reach: Any


@kernel
def workspace(latent, dim):
    """Scratch space for `latent` <= 2 dimensions of a model of `dim` coordinates."""
    return Workspace(
        evaluation.workspace(latent, dim),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(BLOCK),
        np.empty(2),
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
        t, u = (i + shift) * step, (j + shift) * step
        _lay(n, t, u, mean, factor, volume, space)
        space.places[n] = max(abs(t), abs(u))
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
    #: Terms with max(|t|) between reach - 1 and reach - 1/2, and above, and those where a coordinate of the
    #: model is at a bound of its support up to a few roundings; of the joint as shares of the sum.
    inner: Any
    outer: Any
    edge: Any
    near: (
        Any  #: what other parts have up to `Part.near` beyond Laplace's approximation, as a share of the sum
    )
    nodes: Any


@inlined
def _nothing(status, value, nodes):
    """Of a lattice that has a fault, or no finite sum."""
    return Sums(status, value, math.inf, 0.0, 0.0, 0.0, 0.0, nodes)


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
    """The `Sums` of one lattice."""
    dim = mean.size
    reach = lattice.reach
    columns = steps_within(reach, lattice.step)
    rows = columns if dim > 1 else 0
    nodes = (2 * columns + 1) * (2 * rows + 1)
    panel = space.panel
    volume = half_log_det(factor) + dim * math.log(lattice.step)
    top, s, lost, coarse, one, two, edge = -math.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
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
                    s, lost, coarse = s * shrink, lost * shrink, coarse * shrink
                    one, two, edge, top = one * shrink, two * shrink, edge * shrink, value
                term = math.exp(value - top) if value > -math.inf else 0.0
                if part.which != WHOLE:
                    share, density = log_share(part.found, part.which, panel.latent[k], space.mode)
                    if space.places[k] <= part.near:
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
            if space.places[k] > reach - 0.5:
                two += abs(term)
            elif space.places[k] > reach - 1.0:
                one += abs(term)
    s += lost
    coarse *= 2.0**dim
    if integrand != JOINT:
        return Sums(FINE, s, abs(s - coarse), one, two, edge, 0.0, nodes)
    near *= math.exp(near_top - top) if near > 0.0 else 0.0
    if s == 0.0:
        return _nothing(FINE, -math.inf if near == 0.0 else math.nan, nodes)
    halved = abs(math.log(coarse / s)) if coarse > 0.0 and part.which == WHOLE else abs(1.0 - coarse / s)
    return Sums(FINE, top + math.log(s), halved, one / s, two / s, edge / s, near / s, nodes)


@kernel
def _coarse(i, inner, reach):
    """(t, the way to the next node out) of node i of a coarse axis.

    Nodes are 1 apart within a reach, and `GROWTH` t from there on.
    """
    t, way = float(abs(i)), 1.0
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
    """(The log of the mass beyond a reach, by few nodes; their number).

    The outer shells do not tell where a tail begins that is hidden by a thinner one: of 0.9 logistic + 0.1 t,
    70 times narrower and with three degrees of freedom, they miss 1e-11. Tails are exponential in t between
    nodes, as are powers.
    """
    dim, panel, top, total = mean.size, space.panel, -math.inf, 0.0
    inner = math.ceil(reach) - 1.0
    side = int(inner + math.floor(math.log(LARGEST_REACH / reach) / math.log1p(GROWTH)) + 1.0)
    across = 2 * side + 1
    count = across**dim
    terms, volume = np.empty(count), half_log_det(factor)
    for low in range(0, count, BLOCK):
        rows = min(BLOCK, count - low)
        for n in range(rows):
            t, _ = _coarse((low + n) % across - side, inner, reach)
            u, _ = (0.0, 0.0) if dim == 1 else _coarse((low + n) // across - side, inner, reach)
            _lay(n, t, u, mean, factor, volume, space)
        evaluate_or_zero(log_joint, problem, rows, panel)
        for n in range(rows):
            terms[low + n] = panel.values[n] + space.weights[n]
            if part.which != WHOLE:
                terms[low + n] += log_share(part.found, part.which, panel.latent[n], space.mode)[0]
            top = max(top, terms[low + n])
    for n in range(count):
        if terms[n] == -math.inf:
            continue
        mass, is_beyond, stride = math.exp(terms[n] - top), False, 1
        for _ in range(dim):
            i = n // stride % across - side
            t, way = _coarse(i, inner, reach)
            if abs(t) >= reach:
                is_beyond = True
                outward = stride if i > 0 else -stride
                way = _on_the_way(way, terms[n], terms[n + outward]) if abs(i) < side else way
            mass *= way
            stride *= across
        if is_beyond:
            total += mass
    return top + math.log(total) if total > 0.0 else -math.inf, count


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
def integrate(log_joint, problem, mean, factor, first, rtol, q, integrand, total, part, space):
    """The log of the integral of the joint, or q's divergence from p: (status, value, error, nodes, lattice).

    `integrand` is JOINT, KL or KL_OF_Q, `total` the log evidence that p is normalised with; `lattice` is the
    last one. Of a part of the joint, `total` is the log of what other parts have, and the error is relative
    to the larger of the two.

    `first` is the lattice to start with. The reach grows until the outer shells are negligible; where they do
    not shrink, the error is infinite. The step halves until two sums agree, and a lattice that is shifted
    confirms the last. `rtol` is relative to 1 + abs(value).
    """
    step, reach, is_part = first.step, first.reach, part.which != WHOLE
    nodes, value, scale, unit, unit_of_p = 0, math.nan, math.nan, math.nan, math.nan
    change, last, off, outside = math.inf, math.inf, math.inf, math.inf
    widening, shift, log_hidden, most = True, 0.0, -math.inf, MOST_OF_PART if is_part else MOST_NODES
    for _ in range(MOST_ROUNDS):
        lattice = Lattice(step, shift, reach)
        new = _sum(log_joint, problem, mean, factor, lattice, q, integrand, total, part, space)
        nodes += new.nodes
        if new.status != FINE:
            return new.status, math.nan, math.inf, nodes, lattice
        if shift > 0.0:
            off = abs(unit - math.exp(new.value - scale)) if is_part else abs(new.value - value)
            break
        value = new.value
        if not abs(value) < math.inf:
            return FINE, value, 0.0 if value == value else math.inf, nodes, lattice
        scale = max(value, total) if is_part else value
        unit = math.exp(value - scale)
        allowed = rtol * (1.0 + abs(scale))
        if unit * new.near > allowed:
            return FINE, value, math.inf, nodes, lattice
        outer, inner = unit * new.outer, unit * new.inner
        ratio = outer / inner if inner > 0.0 else (1.0 if outer > 0.0 else 0.0)
        outside = outer * ratio / (1.0 - ratio) if ratio < MOST_RATIO else math.inf
        unit_of_p = total if integrand == KL else scale
        if widening and outside <= OUTSIDE * allowed and integrand != KL_OF_Q:
            log_hidden, more = _beyond(log_joint, problem, mean, factor, reach, part, space)
            outside, nodes = max(outside, math.exp(log_hidden - unit_of_p)), nodes + more
        if widening and outside > OUTSIDE * allowed:
            if reach >= LARGEST_REACH or new.nodes > most:
                return FINE, value, outside + EDGE * new.edge, nodes, lattice
            reach = min(reach + max(1.0, GROWTH * reach), LARGEST_REACH)
            continue
        widening = False
        last, change = change, unit * new.halved
        if change <= CHANGE * allowed or new.nodes * 2.0**mean.size > most:
            shift = SHIFT
        else:
            step *= 0.5
    largest = abs(scale) + (0.0 if is_part else abs(total))
    rounding = (ROUNDING + WALK * math.sqrt(new.nodes)) * (TERMS + largest)
    rounding += unit * rounding_of_nodes(part, value, space.row[: mean.size])
    # The sum to which tails were compared may have been far off, for the first lattices are coarse.
    outside = max(outside, math.exp(log_hidden - unit_of_p))
    rest = rounding + outside + unit * (EDGE * new.edge + new.near)
    return FINE, value, lattice_error(change, last, off, rest) + rest, nodes, lattice
