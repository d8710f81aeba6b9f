"""Expectations of a log joint under a Gaussian in one or two dimensions, on nested lattices.

In the frame (mean, factor) of q the integrand is a standard normal density times x = log q - log p, and the
trapezoid rule converges exponentially. The nodes are ordered by level, each of which halves the step. The
levels so far are a lattice themselves: the error is estimated by their difference, and nothing is evaluated
twice. The last lattice is compared with one that is rotated, and shifted by a part of its step: nested
lattices take a fast oscillation for the same slow one. Used by fits in one or two dimensions and by
natural-gradient steps.

Because of Stein's identity the moments E[x xi**alpha], |alpha| <= 4, hold the value, the gradient and the
Hessian (`newton`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, IntegerMatrix, Integers, Matrix, Vector
from ..compiler import adder, formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..models.evaluation import BLOCK, Panel, evaluate, fault, panel_of
from ..numerics.elementary import decay
from ..numerics.matrices import half_log_det
from ..quadrature.moments import MOMENTS, weighted_powers
from ..statuses import FINE, RAISED

#: The step of level 0, in one dimension (23 nodes, three vectors) and in two. The rule's error for a
#: polynomial is then 1e-16 and 8e-14, and level 1 most often confirms it. (With a step of 1 it took level 2.)
STEP_1 = 8.0 / 11.0
STEP_2 = 0.8

#: The radius of the ball of nodes, how much wider the next one is, and how many of them there are.
RADIUS = 8.0
WIDER = 2.0
BALLS = 5

#: Levels, and nodes of all of them: in one dimension, in two.
LEVELS = 9
MOST_NODES_1 = 8_192
MOST_NODES_2 = 196_608

#: Levels are filled up to a multiple of this with nodes of weight 0: the scalar remainder of a loop is slow
#: (an expectation on 17 nodes takes 0.45 µs, on 16 nodes 0.1 µs).
LANES = 8

#: The height of a standard normal density in one dimension.
BELL = math.exp(-0.5 * LOG_2PI)

#: The first two levels of the smallest ball in one dimension as constants. They are most of a fit there; with
#: a fixed number of nodes its loops are three vectors without remainder: a fit takes 380 ns instead of 500.
QUICK = 24
_NODES = np.zeros((2, QUICK))
_NODES[0, :23] = STEP_1 * np.arange(-11, 12)
_NODES[1, :22] = STEP_1 * (np.arange(-11, 11) + 0.5)
_SQUARES = _NODES**2
_WEIGHTS = np.exp(-0.5 * _SQUARES)
_WEIGHTS[0, 23:] = _WEIGHTS[1, 22:] = 0.0

#: The lattice that confirms the last one is moved by this share of its step along each axis, and rotated: a
#: strip between two rows of nodes is seen by no lattice with the same rows.
SHIFT = 0.381966
COSINE, SINE = math.cos(math.pi / 8), math.sin(math.pi / 8)

#: That of levels 0 and 1 together in the smallest ball in one dimension as constants.
QUICK_SHIFTED = 48
_SHIFTED = np.zeros(QUICK_SHIFTED)
_SHIFTED[:44] = 0.5 * STEP_1 * (np.arange(-22, 22) + SHIFT)
_SHIFTED_SQUARES = _SHIFTED**2
_SHIFTED_WEIGHTS = np.exp(-0.5 * _SHIFTED_SQUARES)
_SHIFTED_WEIGHTS[44:] = 0.0

#: Convergence is exponential where a halving changes the sum by less than this share of the change before,
#: and the shifted lattice agrees as well.
EXPONENTIAL = 0.02

#: Then the shifted lattice is off by about what the next halving will change, the square of this change over
#: the last. Where it is by so many times that, and by so many roundings, a kink or a jump is beside what
#: converges exponentially, or two changes are small by chance. (Without this five of 750 sums of kinks, jumps
#: and waves in the plane were off by 1.1 to 13 times their error, with it none of 2,350.)
FAITHFUL, ROUNDINGS = 3.0, 8.0

#: The error, as a multiple of the distance between the last lattice and the shifted one where convergence is
#: exponential; and of the largest difference where it is not, and this share of the change before the last.
OF_SHIFT, OF_LARGEST, OF_LAST = 2.0, 4.0, 0.25

#: The outer shells give no estimate of what is outside of the ball where their ratio is above this.
MOST_RATIO = 0.9

#: The ball grows where so much of the error that is allowed lies outside of it; from level FINE_LEVEL on, as
#: a share of `rtol` alone: a gradient that has not converged by then is disturbed by the edge of the ball.
OUTSIDE, FINE_LEVEL, OUTSIDE_FINE = 0.1, 3, 0.01

#: The error of the gradient from what is outside of the ball, as a multiple of that of the value.
GRADIENT_OUTSIDE = 10.0

#: Rounding of a float, relative; a value of 0 has the rounding of terms of this size.
ROUNDING, TERMS = 2.2e-16, 8.0

#: Nodes that are outside of a ball by less than this share of a step are in it: the quotient is rounded.
ON_THE_EDGE = 1e-9


class Workspace(NamedTuple):
    """Scratch space for expectations; the lattices in it are made once."""

    lattices: Cube  #: (BALLS, 4, nodes) by ball: x, y, weight, square of the radius
    starts: IntegerMatrix  #: (BALLS, LEVELS + 1) by ball: where each level starts; last, how many there are
    ball: Integers  #: (1,) the one in use
    panel: Panel
    before: Vector  #: (MOMENTS,) of the levels so far
    sums: Vector  #: (MOMENTS,) of the level that is added
    shells: Matrix  #: (LEVELS, 2) by level: the two outer shells


@kernel
def workspace(latent, dim, rows=BLOCK):
    """Scratch space for expectations in `latent` <= 2 dimensions, of a model of `dim` coordinates.

    `rows` are the nodes that are evaluated together.
    """
    most = MOST_NODES_1 if latent == 1 else MOST_NODES_2
    return Workspace(
        np.empty((BALLS, 4, most)),
        np.zeros((BALLS, LEVELS + 1), np.int64),
        np.zeros(1, np.int64),
        panel_of(rows, latent, dim),
        np.empty(MOMENTS),
        np.empty(MOMENTS),
        np.empty((LEVELS, 2)),
    )


@kernel
def steps_within(reach, step):
    """How many multiples of a step are within a reach."""
    return int(reach / step + ON_THE_EDGE)


@kernel
def _step(level, dim):
    """The step of the lattice of all levels up to this one."""
    return (STEP_1 if dim == 1 else STEP_2) * 0.5**level


@formula
def _weight(square):
    return decay(-0.5 * square)


@kernel
def _lay_level(level, radius, dim, lattice, start):
    """Write the nodes that a level adds; the place after the last, or -1 where there is no room."""
    step = _step(level, dim)
    most = lattice.shape[1]
    count = start
    height = steps_within(radius, step) if dim > 1 else 0
    for j in range(-height, height + 1):
        y = j * step
        width = steps_within(math.sqrt(max(radius * radius - y * y, 0.0)), step)
        if count + 2 * width + 1 > most:
            return -1
        for i in range(-width, width + 1):
            if level > 0 and i % 2 == 0 and j % 2 == 0:
                continue
            lattice[0, count] = i * step
            lattice[1, count] = y
            lattice[3, count] = (i * step) ** 2 + y * y
            count += 1
    for n in range(start, count):
        lattice[2, n] = _weight(lattice[3, n])
    while count % LANES != 0 and count < most:
        for a in range(4):
            lattice[a, count] = 0.0
        count += 1
    return count


@inlined
def lay(level, dim, space):
    """Lay out a level of the ball in use, if need be; False where it would have too many nodes."""
    ball = space.ball[0]
    lattice, starts = space.lattices[ball], space.starts[ball]
    while starts[LEVELS] <= level:
        k = starts[LEVELS]
        if k + 1 >= LEVELS:
            return False
        end = _lay_level(k, RADIUS + WIDER * ball, dim, lattice, starts[k])
        if end < 0:
            return False
        starts[k + 1] = end
        starts[LEVELS] = k + 1
    return True


@formula
def _to_latent_1(x, latent, mean, a):
    for n in range(x.size):
        latent[n, 0] = mean + a * x[n]


@formula
def _to_latent_2(x, y, latent, mean, factor):
    for n in range(x.size):
        latent[n, 0] = mean[0] + factor[0, 0] * x[n] + factor[0, 1] * y[n]
        latent[n, 1] = mean[1] + factor[1, 0] * x[n] + factor[1, 1] * y[n]


@formula
def _term(weight, square, own, log_joint, log_jacobian):
    return weight * ((own - 0.5 * square) - (log_joint + log_jacobian))


@inlined
def _weigh(weights, squares, own, log_joint, log_jacobian, values):
    for n in range(values.size):
        values[n] = _term(weights[n], squares[n], own, log_joint[n], log_jacobian[n])


@adder
def _shells(values, squares, inner, middle):
    """Sums of absolute values in the two outer shells, each of width 1."""
    one, two = 0.0, 0.0
    for n in range(values.size):
        size = abs(values[n])
        outer = squares[n] > middle
        two += size if outer else 0.0
        one += size if squares[n] > inner and not outer else 0.0
    return one, two


@adder
def _sums_1(x, weights, squares, own, log_joint, log_jacobian, inner, middle):
    """In one dimension: sums of terms x**a for a <= 4, and `_shells`."""
    s0, s1, s2, s3, s4, one, two = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(x.size):
        u, v = _term(weights[n], squares[n], own, log_joint[n], log_jacobian[n]), x[n]
        square = v * v
        uv = u * v
        s0 += u
        s1 += uv
        s2 += u * square
        s3 += uv * square
        s4 += u * (square * square)
        size = abs(u)
        outer = squares[n] > middle
        two += size if outer else 0.0
        one += size if squares[n] > inner and not outer else 0.0
    return (s0, s1, s2, s3, s4), one, two


@inlined
def _refined(level, before, added):
    """A sum in one dimension on all levels, from that on the levels before and that on the new one."""
    return added if level == 0 else 0.5 * before + added


@inlined
def _add_quick(log_joint, problem, level, mean, factor, own, space, moments):
    """`add_level` for the constant nodes."""
    panel, before, shells = space.panel, space.before, space.shells
    x = _NODES[level]
    _to_latent_1(x, panel.latent, mean[0], factor[0, 0])
    if evaluate(log_joint, problem, QUICK, panel) != FINE:
        return RAISED
    inner, middle = (RADIUS - 2.0) ** 2, (RADIUS - 1.0) ** 2
    (s0, s1, s2, s3, s4), one, two = _sums_1(
        x, _WEIGHTS[level], _SQUARES[level], own, panel.log_joint, panel.log_jacobian, inner, middle
    )
    if not abs(s0) < math.inf:
        return fault(problem, QUICK, panel)
    volume = (STEP_1 if level == 0 else 0.5 * STEP_1) * BELL
    moments[0] = _refined(level, before[0], volume * s0)
    moments[1] = _refined(level, before[1], volume * s1)
    moments[2] = _refined(level, before[2], volume * s2)
    moments[3] = _refined(level, before[3], volume * s3)
    moments[4] = _refined(level, before[4], volume * s4)
    shells[level, 0] = _refined(level, shells[0, 0], volume * one)
    shells[level, 1] = _refined(level, shells[0, 1], volume * two)
    return FINE


@inlined
def add_level(log_joint, problem, level, mean, factor, own, space, moments):
    """Refine the moments of the levels below to those of `level`, and keep the outer shells; the status.

    `own` is log q at the mean. For level 0 the moments are made anew.
    """
    ball, panel = space.ball[0], space.panel
    lattice, starts = space.lattices[ball], space.starts[ball]
    dim = mean.size
    radius = RADIUS + WIDER * ball
    latent, densities, log_jacobian, sums = panel.latent, panel.log_joint, panel.log_jacobian, space.sums
    inner, middle = (radius - 2.0) ** 2, (radius - 1.0) ** 2
    side = _step(level, dim) * BELL
    volume = side if dim == 1 else side * side
    shrink = 0.0 if level == 0 else (0.5 if dim == 1 else 0.25)
    one, two = 0.0, 0.0
    if level > 0:
        one, two = space.shells[level - 1, 0] * shrink, space.shells[level - 1, 1] * shrink
    used = 5 if dim == 1 else 21
    for i in range(used):
        sums[i] = 0.0
    rows = latent.shape[0]
    for low in range(starts[level], starts[level + 1], rows):
        n = min(rows, starts[level + 1] - low)
        x, y = lattice[0, low : low + n], lattice[1, low : low + n]
        weights, squares = lattice[2, low : low + n], lattice[3, low : low + n]
        if dim == 1:
            _to_latent_1(x, latent, mean[0], factor[0, 0])
        else:
            _to_latent_2(x, y, latent, mean, factor)
        if evaluate(log_joint, problem, n, panel) != FINE:
            return RAISED
        if dim == 1:
            s0, p, q = _sums_1(x, weights, squares, own, densities[:n], log_jacobian[:n], inner, middle)
        else:
            values = panel.values[:n]
            _weigh(weights, squares, own, densities[:n], log_jacobian[:n], values)
            p, q = _shells(values, squares, inner, middle)
            s0, s1, s2, s3, s4 = weighted_powers(values, x, y)
            for a in range(4):
                sums[5 + a] += s1[a]
            for a in range(3):
                sums[10 + a] += s2[a]
            for a in range(2):
                sums[15 + a] += s3[a]
            sums[20] += s4
        for a in range(5):
            sums[a] += s0[a]
        if not abs(s0[0]) < math.inf:
            return fault(problem, n, panel)
        one += volume * p
        two += volume * q
    for i in range(used):
        moments[i] = (shrink * moments[i] if level > 0 else 0.0) + volume * sums[i]
    space.shells[level, 0], space.shells[level, 1] = one, two
    return FINE


@kernel
def shifted(log_joint, problem, level, shift, mean, factor, own, space):
    """(status, the value on the lattice of all levels up to this one, shifted and rotated; nodes).

    At level 1 on a line the shift is always SHIFT.
    """
    panel, ball, dim = space.panel, space.ball[0], mean.size
    step, radius = _step(level, dim), RADIUS + WIDER * ball
    side = step * BELL
    if dim == 1 and ball == 0 and level == 1:
        _to_latent_1(_SHIFTED, panel.latent, mean[0], factor[0, 0])
        if evaluate(log_joint, problem, QUICK_SHIFTED, panel) != FINE:
            return RAISED, math.inf, QUICK_SHIFTED
        sums, _, _ = _sums_1(
            _SHIFTED,
            _SHIFTED_WEIGHTS,
            _SHIFTED_SQUARES,
            own,
            panel.log_joint,
            panel.log_jacobian,
            radius * radius,
            radius * radius,
        )
        if not abs(sums[0]) < math.inf:
            return fault(problem, QUICK_SHIFTED, panel), math.inf, QUICK_SHIFTED
        return FINE, side * sums[0], QUICK_SHIFTED
    half = int(radius / step) + 1
    columns = 2 * half + 1
    rows = columns if dim > 1 else 1
    total, nodes, t = 0.0, 0, 0
    while t < columns * rows:
        n = 0
        while t < columns * rows and n < panel.latent.shape[0]:
            x = (t % columns - half + shift) * step
            y = (t // columns - half + shift) * step if dim > 1 else 0.0
            t += 1
            square = x * x + y * y
            if square > radius * radius:
                continue
            if dim > 1:
                x, y = COSINE * x - SINE * y, SINE * x + COSINE * y
                panel.latent[n, 1] = mean[1] + factor[1, 0] * x + factor[1, 1] * y
            panel.latent[n, 0] = mean[0] + factor[0, 0] * x
            panel.values[n] = _weight(square)
            total += panel.values[n] * (own - 0.5 * square)
            n += 1
        nodes += n
        if evaluate(log_joint, problem, n, panel) != FINE:
            return RAISED, math.inf, nodes
        part = 0.0
        for k in range(n):
            part += panel.values[k] * (panel.log_joint[k] + panel.log_jacobian[k])
        if not abs(part) < math.inf:
            return fault(problem, n, panel), math.inf, nodes
        total -= part
    return FINE, total * (side if dim == 1 else side * side), nodes


@kernel
def lattice_error(change, last, shift, rounding):
    """The error where the last halvings changed `last` and `change`, and the shifted lattice is `shift` off.

    Each sum may be off by `rounding` for other reasons. Of 3,000 kinks and as many jumps at random places
    none exceeds half of the error; without the shifted lattice one kink in seven does, by up to 6e6 times.
    """
    if last == math.inf:
        return max(change, OF_SHIFT * shift)
    is_near = shift * last <= max(FAITHFUL * change * change, ROUNDINGS * rounding * last)
    if is_near and max(change, shift) <= EXPONENTIAL * last:
        return max(halving_error(change, last), OF_SHIFT * shift)
    return OF_LARGEST * max(change, OF_LAST * last, shift)


@inlined
def tail(space, level):
    """The integral outside of the ball, by the geometric series that goes on from the last two shells."""
    one, two = space.shells[level, 0], space.shells[level, 1]
    if two == 0.0:
        return 0.0
    ratio = two / one if one > 0.0 else 1.0
    return two * ratio / (1.0 - ratio) if ratio < MOST_RATIO else math.inf


@kernel
def halving_error(change, last):
    """The error after a halving that changed so much, when the one before changed `last`.

    The error is squared by each halving of an analytic integrand, and a quarter of the change for one with a
    kink.
    """
    if change == 0.0:
        return 0.0
    # Twenty times what that leaves: the first change may be the bell's error, the second that of a pole of x.
    return 2.0 * change * min(1.0, 20.0 * change / last) if last < math.inf else change


@kernel
def gradient_difference(one, two, dim):
    """How much the gradient differs between two sets of moments."""
    s = 0.0
    places = (1, 5)
    for a in range(dim):
        s += (one[places[a]] - two[places[a]]) ** 2
        for b in range(a + 1):
            d = one[places[a] + places[b]] - two[places[a] + places[b]]
            if a == b:
                d -= one[0] - two[0]
            s += d * d
    return math.sqrt(s)


@inlined
def expect(log_joint, problem, mean, factor, known, least_level, rtol, space, moments):
    """The moments of x = log q - log p, on a lattice that is refined until they hold to `rtol`.

    Returned: (status, error of the value, error of the gradient, nodes, level, whether it holds). At least
    the levels up to `least_level` are used, so that what was learnt at one frame serves the next; a negative
    one asks for the coarsest lattice alone. `known` is 0 where that was the last call, in the same frame:
    `moments` are then those of level 0; else it is -1. The ball is at first the one in use, and grows where
    the integral outside of it matters, since no refinement removes that error.
    """
    dim = mean.size
    own = -half_log_det(factor) - 0.5 * dim * LOG_2PI
    before, in_use = space.before, space.ball
    nodes, level = 0, known
    used = 5 if dim == 1 else 21
    change, last, gradient_change, last_gradient_change, outside = math.inf, math.inf, math.inf, math.inf, 0.0
    fits, widest, shift = True, BALLS - 1, math.inf
    while True:
        quick = dim == 1 and in_use[0] == 0 and level < 1
        if not quick and not lay(level + 1, dim, space):
            fits = False
            status, other, n = shifted(log_joint, problem, level, SHIFT, mean, factor, own, space)
            nodes += n
            if status != FINE:
                return status, math.inf, math.inf, nodes, level, False
            # Lattices that an oscillation fools may agree by chance, but not one after another.
            shift = max(abs(other - moments[0]), 0.5 * shift if shift < math.inf else 0.0)
            break
        level += 1
        if level > 0:
            for i in range(used):
                before[i] = moments[i]
        if quick:
            status = _add_quick(log_joint, problem, level, mean, factor, own, space, moments)
            nodes += QUICK
        else:
            status = add_level(log_joint, problem, level, mean, factor, own, space, moments)
            nodes += space.starts[in_use[0], level + 1] - space.starts[in_use[0], level]
        if status != FINE and in_use[0] > 0 and level <= 1:
            # The log joint overflows so far out: take a smaller ball, whose error is estimated.
            in_use[0] -= 1
            widest, level = in_use[0], -1
            continue
        if status != FINE or least_level < 0:
            return status, math.inf, math.inf, nodes, level, False
        if level == 0:
            continue
        tolerance = rtol * (1.0 + abs(moments[0]))
        outside = tail(space, level)
        allowed = OUTSIDE * tolerance if level < FINE_LEVEL else OUTSIDE_FINE * rtol
        if outside > allowed and in_use[0] < widest:
            in_use[0] += 1
            level = -1
            change, gradient_change = math.inf, math.inf
            continue
        last, last_gradient_change = change, gradient_change
        change = abs(moments[0] - before[0])
        gradient_change = gradient_difference(moments, before, dim)
        if (
            level >= least_level
            and halving_error(change, last) <= tolerance
            and halving_error(gradient_change, last_gradient_change) <= rtol
        ):
            status, other, n = shifted(log_joint, problem, level, SHIFT, mean, factor, own, space)
            nodes += n
            if status != FINE:
                return status, math.inf, math.inf, nodes, level, False
            shift = abs(other - moments[0])
            rounding = ROUNDING * (TERMS + abs(moments[0]) + abs(own))
            if lattice_error(change, last, shift, rounding) <= tolerance:
                break
    rounding = ROUNDING * (TERMS + abs(moments[0]) + abs(own))
    error, gradient_error = (
        lattice_error(change, last, shift, rounding) + outside + rounding,
        halving_error(gradient_change, last_gradient_change) + GRADIENT_OUTSIDE * outside,
    )
    return (
        FINE,
        error,
        gradient_error,
        nodes,
        level,
        fits and error <= rtol * (1.0 + abs(moments[0])) + rounding,
    )
