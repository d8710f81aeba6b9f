"""The log evidence of a posterior whose modes are found, by quadrature over one or two whole axes.

Modes may lie far apart and be of any widths. Each has a part of the joint, and a lattice of its own.
"""

from __future__ import annotations

import math

import numpy as np

from ..compiler import inlined, kernel
from ..models.evaluation import FARTHEST, evaluate_or_zero
from ..models.kinds import REAL
from ..models.supports import is_real
from ..numerics.matrices import copy_matrix, copy_vector, fill_vector, half_log_det, solve_lower
from ..statuses import FINE
from .confirmation import FAR, MARGIN, UNIT_FALL
from .evidence import (
    GAUSSIAN,
    JOINT,
    LARGEST_REACH,
    MOST_NODES,
    MOST_OF_CHECK,
    MOST_OF_PART,
    MOST_ROUNDS,
    NONE,
    REACH,
    STEP,
    WHOLE,
    Density,
    Part,
    has_powers_in_the_plane,
    integrate,
    rounding_of_nodes,
)
from .modes import Modes, distance, frame

#: On a line, parts of the joint are enough where their error is this share of what is allowed.
CLOSE = 0.01

#: In the plane, frames around one mode are tried where the error is above this, relative to 1 + abs(value).
ROUGH = 1e-4

#: Of parts of the joint, the rest has a mass that is so many nats below that of the largest mode: of a
#: Gaussian mode it gets 1e-13.
REST = 30.0

#: The step of its first lattice: modes that no search found are seen by it, as by the lattice of all.
STEP_OF_REST = 0.0625

#: A lattice that misses no more of a mode is halved until it misses nothing.
NEAR_ENOUGH = 1e-9

#: Where latent coordinates are logarithms, the joint of an improper posterior falls by no more between half
#: the way to where these are cut off and there. (Farther out z is constant, and each density seems to rise.)
LEAST_FALL = 0.01

#: A mode may have so many times the mass of Laplace's approximation: a Cauchy density has 1.8 times, one in
#: the plane 3 times.
MOST_MASS = 4.0

#: Frames of the whole: of all modes; the other of all, without a correlation or with it; of the narrowest
#: mode; of the first.
FRAMES, OTHER, NARROWEST, FIRST = 4, 1, 2, 3

#: The first frame of all has no correlation where this is smaller.
CORRELATED = 0.1


@kernel
def coarseness(frame_factor, place, step, factor):
    """The share of a Gaussian that the trapezoid rule may miss, or count too much, for its nodes lie apart.

    By Poisson's formula: where nodes are B k + c, for integers k, and the factor of the Gaussian is F, each
    vector k of integers adds exp(-2 pi^2 |k' B^-1 F|^2); up to six are shortest. `place` is the centre in
    the frame's coordinates: there B = L diag(step cosh t).
    """
    dim = factor.shape[0]
    # The rows of B^-1 F.
    a = factor[0, 0] / (frame_factor[0, 0] * step * math.hypot(1.0, place[0]))
    if dim == 1:
        return min(6.0 * math.exp(-2.0 * math.pi**2 * a * a), 1.0)
    scale = frame_factor[1, 1] * step * math.hypot(1.0, place[1])
    b = (factor[1, 0] - frame_factor[1, 0] * factor[0, 0] / frame_factor[0, 0]) / scale
    c = factor[1, 1] / scale
    # Gauss's reduction of (a, 0) and (b, c).
    x, y, u, v = a, 0.0, b, c
    for _ in range(MOST_ROUNDS):
        if x * x + y * y > u * u + v * v:
            x, y, u, v = u, v, x, y
        square = x * x + y * y
        times = math.floor((x * u + y * v) / square + 0.5) if square > 0.0 else 0.0
        if not abs(times) > 0.0:
            break
        u, v = u - times * x, v - times * y
    return min(6.0 * math.exp(-2.0 * math.pi**2 * min(x * x + y * y, u * u + v * v)), 1.0)


@kernel
def _unresolved(found, mean, factor, step, reach, value, place):
    """The mass of modes that a lattice may have missed, relative to what it has found."""
    missed = 0.0
    for n in range(found.log_masses.size):
        distance(mean, factor, found.means[n], place)
        is_within = True
        for i in range(place.size):
            is_within = is_within and math.asinh(abs(place[i])) <= reach[i]
        share = coarseness(factor, place, step, found.factors[n]) if is_within else 1.0
        if share > 0.0:
            missed += share * math.exp(found.log_masses[n] - value)
    return MOST_MASS * missed


@kernel
def _start_beyond(found, mean, factor, place, reach):
    """Write the reach of each axis to start with, beyond all modes: shells must be of tails that go on."""
    fill_vector(REACH, reach)
    for n in range(found.log_masses.size):
        distance(mean, factor, found.means[n], place)
        for i in range(place.size):
            farthest = abs(place[i]) if place[i] == place[i] else math.inf
            reach[i] = min(max(reach[i], math.asinh(farthest) + REACH), LARGEST_REACH)


@kernel
def _near(parts, which, place, column):
    """How far from a mode nodes of other parts are apart, as abs(t) in its own frame; NONE: near enough."""
    dim, radius = place.size, 0.0
    for n in range(parts.log_masses.size):
        if n == which:
            continue
        distance(parts.means[n], parts.factors[n], parts.means[which], place)
        if coarseness(parts.factors[n], place, STEP, parts.factors[which]) <= NEAR_ENOUGH:
            continue
        apart = 0.0
        for j in range(dim):
            for i in range(dim):
                column[i] = parts.factors[n][i, j] * STEP * math.hypot(1.0, place[j])
            solve_lower(parts.factors[which], column)
            for i in range(dim):
                apart += 0.5 * abs(column[i])
        radius = max(radius, apart) if apart == apart else math.inf
    return math.asinh(radius) if radius > 0.0 else NONE


@kernel
def with_rest(found, mean, factor):
    """The modes with mass, and the rest: one that is wider than all, around a frame of all."""
    count, kept = found.log_masses.size, 0
    parts = Modes(np.empty((count + 1, mean.size)), np.empty((count + 1, *factor.shape)), np.empty(count + 1))
    largest = -math.inf
    for n in range(count):
        if found.log_masses[n] > -math.inf:
            copy_vector(found.means[n], parts.means[kept])
            copy_matrix(found.factors[n], parts.factors[kept])
            parts.log_masses[kept] = found.log_masses[n]
            largest = max(largest, found.log_masses[n])
            kept += 1
    copy_vector(mean, parts.means[kept])
    # The covariance of the frame is at least that of a mode divided by their number: this one, four times it.
    parts.factors[kept] = 2.0 * math.sqrt(count) * factor
    parts.log_masses[kept] = largest - REST
    kept += 1
    return Modes(parts.means[:kept], parts.factors[:kept], parts.log_masses[:kept])


@kernel
def reach_of_part(parts, which, place, column):
    """abs(t) within which a mode's density is above that of the rest, in the mode's own frame.

    There abs(x)^2 <= 2 h + (abs(P) + a abs(x))^2, for the rise h of the one density over the other, and the
    mode's place P and size a in the frame of the rest.
    """
    last = parts.log_masses.size - 1
    mean, factor, wide = parts.means[which], parts.factors[which], parts.factors[last]
    rise = parts.log_masses[which] - half_log_det(factor) - parts.log_masses[last] + half_log_det(wide)
    distance(parts.means[last], wide, mean, place)
    square, size = 0.0, 0.0
    for j in range(place.size):
        square += place[j] ** 2
        for i in range(place.size):
            column[i] = factor[i, j]
        solve_lower(wide, column)
        for i in range(place.size):
            size += column[i] ** 2
    rest = 1.0 - size
    if not rest > 0.0:
        return math.inf
    root = math.sqrt(max(square * size + rest * (2.0 * rise + square), 0.0))
    return math.asinh((math.sqrt(square * size) + root) / rest)


@kernel
def _by_parts(log_joint, problem, parts, mean, factor, rtol, q, space):
    """(status, log evidence, error, nodes), each part in the frame of its own, the rest in that of all.

    And whether the tails of a part are powers, in the plane.
    """
    last, row = parts.log_masses.size - 1, space.row[: mean.size]
    value, slack, nodes, has_powers = -math.inf, 0.0, 0, False
    for k in range(last + 1):
        own, wide, near, step, reach = parts.means[k], parts.factors[k], NONE, STEP, REACH
        if k < last:
            near = _near(parts, k, space.mode, row)
            reach = max(REACH, near, reach_of_part(parts, k, space.mode, row))
        else:
            own, wide, step = mean, factor, STEP_OF_REST
        if not reach <= LARGEST_REACH:
            return FINE, value, math.inf, nodes, has_powers
        fill_vector(reach, space.reach)
        part = Part(parts, k, near)
        status, one, error, more, _ = integrate(
            log_joint, problem, own, wide, step, MOST_OF_PART, rtol, q, JOINT, value, part, space
        )
        nodes += more
        if status != FINE or not error < math.inf:
            return status, value, math.inf, nodes, has_powers
        has_powers = has_powers or has_powers_in_the_plane(space.reach)
        if one > -math.inf:
            top, low = max(value, one), min(value, one)
            both = top + math.log1p(math.exp(low - top))
            slack = slack * math.exp(value - both) + error * math.exp(top - both)
            value = both
    return FINE, value, math.log1p(slack) if value > -math.inf else math.inf, nodes, has_powers


@inlined
def _is_slow_somewhere(log_joint, problem, mean, factor, panel):
    """Whether the joint falls off too slowly along a coordinate, as where a posterior is improper.

    Where z is bounded, latent coordinates are logarithms, and end where floats do.
    """
    for i in range(mean.size):
        is_log = problem.kinds[i] != REAL
        for n in range(4):
            far, side = n // 2, 1.0 - 2.0 * (n % 2)
            copy_vector(mean, panel.latent[n])
            if is_log:
                panel.latent[n, i] = side * 0.5 * (1 + far) * FARTHEST
            else:
                panel.latent[n, i] += side * FAR[far] * factor[i, i]
        evaluate_or_zero(log_joint, problem, 4, panel)
        for n in range(2):
            fall = panel.values[n] - panel.values[2 + n]
            if fall <= (LEAST_FALL if is_log else UNIT_FALL + MARGIN):
                return True
    return False


@kernel
def _ends_with_floats(kinds, found):
    """Whether a mode has no finite deviation, or lies where logarithms of bounded coordinates are cut off."""
    for n in range(found.log_masses.size):
        for i in range(found.means.shape[1]):
            mean, deviation = abs(found.means[n, i]), found.factors[n, i, i]
            if not mean + deviation < math.inf or (kinds[i] != REAL and mean > FARTHEST):
                return True
    return False


@inlined
def _unknown(log_joint, problem, found, panel, nodes):
    """(status, log evidence, error, nodes) where no lattice has a sum: infinite for an improper posterior."""
    endless = is_real(problem.kinds)
    endless = endless or _is_slow_somewhere(log_joint, problem, found.means[0], found.factors[0], panel)
    return FINE, math.inf if endless else math.nan, math.inf, nodes


@kernel
def _write_upright(factor, out):
    """Write the factor of a frame along the axes, with conditional deviations; size of the correlation."""
    if out.shape[0] == 1:
        out[0, 0] = factor[0, 0]
        return 0.0
    deviation = math.hypot(factor[1, 0], factor[1, 1])
    out[0, 0] = factor[0, 0] * factor[1, 1] / deviation
    out[0, 1] = out[1, 0] = 0.0
    out[1, 1] = factor[1, 1]
    return abs(factor[1, 0]) / deviation


@inlined
def of_modes(log_joint, problem, found, rtol, mean, factor, space):
    """(status, log evidence, error, nodes) of a model whose modes are found; writes a frame of all.

    Several modes divide the joint among them and a rest, and each part is integrated in its own frame. What
    nodes of the other parts may miss near a mode is in the error, as where the tails of a narrow mode are not
    Gaussian. Where the error is too large, the whole is integrated: in the frame of all modes, in that of the
    narrowest, around which nodes are dense, and in that of the first; each reaches as far as the other modes.
    Where tails in the plane are powers, it is integrated in two frames of all modes, with their correlation
    and without: far out along one axis, even a small correlation moves nodes by many deviations of the other.

    The error has what such a lattice may miss of the modes, and how far two results differ where that is more
    than their errors allow. It is infinite where more may be missed than was found. For an improper posterior
    the value is infinite too; it is NaN where tails are only too heavy for a lattice, or floats end at a
    mode.
    """
    count, narrowest = found.log_masses.size, 0
    if _ends_with_floats(problem.kinds, found):
        return _unknown(log_joint, problem, found, space.panel, 0)
    for n in range(1, count):
        if half_log_det(found.factors[n]) < half_log_det(found.factors[narrowest]):
            narrowest = n
    frame(found.means, found.factors, mean, factor)
    q = Density(GAUSSIAN, mean, factor, space.row, 0.0)  # of which the joint needs none
    whole = Part(found, WHOLE, NONE)
    value, error, enough, nodes, apart = -math.inf, math.inf, 0.0, 0, 0.0
    has_powers = False
    if count > 1:
        parts = with_rest(found, mean, factor)
        status, value, error, nodes, has_powers = _by_parts(
            log_joint, problem, parts, mean, factor, rtol, q, space
        )
        if status != FINE:
            return status, math.nan, math.inf, nodes
        enough = rtol * (1.0 + abs(value))
        if mean.size == 1:
            # More digits cost little, but none that the roundings of nodes do not have.
            rounding = rounding_of_nodes(whole, value, space.row[:1])
            enough = min(enough, CLOSE * enough + 2.0 * rounding)
        if error <= enough < math.inf and not has_powers:
            return status, value, error, nodes
    is_known, upright = False, np.empty(factor.shape)
    is_upright = _write_upright(factor, upright) < CORRELATED
    for k in range(FRAMES):
        centre, shape, most = mean, upright if is_upright else factor, MOST_NODES
        if k == OTHER:
            if not (has_powers or has_powers_in_the_plane(space.reach)):
                continue
            shape = factor if is_upright else upright
            most = MOST_OF_CHECK if error <= enough < math.inf else MOST_NODES
        elif k > OTHER:
            if not is_known or error <= enough < math.inf or (k == FIRST and narrowest == 0) or count == 1:
                break
            mode = narrowest if k == NARROWEST else 0
            centre, shape = found.means[mode], found.factors[mode]
        _start_beyond(found, centre, shape, space.mode, space.reach)
        status, new, new_error, more, step = integrate(
            log_joint, problem, centre, shape, STEP, most, rtol, q, JOINT, 0.0, whole, space
        )
        nodes += more
        if status != FINE:
            return status, math.nan, math.inf, nodes
        if new_error == math.inf or new != new:
            continue
        is_known = True
        missed = _unresolved(found, centre, shape, step, space.reach, new, space.mode)
        new_error = new_error + math.log1p(missed) if missed <= 1.0 else math.inf
        if abs(new - value) > error + new_error:
            apart = max(apart, abs(new - value))
        if new_error < error or (error == math.inf and not new < value):
            value, error = new, new_error
        # A frame around one mode takes up to a second in the plane.
        enough = max(rtol, ROUGH if mean.size > 1 else 0.0) * (1.0 + abs(value))
    if is_known:
        return FINE, value, error + apart, nodes
    return _unknown(log_joint, problem, found, space.panel, nodes)
