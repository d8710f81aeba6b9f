"""Damped Newton steps that minimise E_q[log q - log p] over Gaussians q, from moments of x = log q - log p.

Used by I-projections and by fits in one or two dimensions (`descend` is a template for the former).

The step is taken in the coordinates of q itself: mean + factor delta and factor (I + T), T lower triangular.
There Fisher's information is diagonal, M = diag(1, ..., 1, 2 for T_aa): a damped step solves
(H + damping M) step = -gradient, from Newton's (damping 0) to a short one along the natural gradient.

Parameter i is the pair (row, column) of `layout`: T[row, column], or delta[row] for column -1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import IntegerMatrix, Matrix, Vector
from ..compiler import inlined, kernel
from ..families import operations
from ..families.table import DIAGONAL as DIAGONAL
from ..families.table import FULL as FULL
from ..families.table import ISOTROPIC as ISOTROPIC
from ..numerics.matrices import copy_matrix, copy_vector

#: A step longer than this, in the metric M, is damped: the quadratic model does not hold so far.
TRUST = 1.0

#: Pivots of the Hessian above this, in the coordinates of q, make a point a minimum.
LEAST_CURVATURE = 1e-6

#: Pivots of a damped Hessian above this let a step be solved for.
LEAST_PIVOT = 1e-9

#: Steps of one descent: a dozen are usual.
MOST_STEPS = 60

#: The first damping that is tried after none, and one with which a step is too short to matter.
LEAST_DAMPING, MOST_DAMPING = 0.1, 1e3

#: Dampings that are tried for one step, each STIFFER times the last: 60 of them reach 1e27.
MOST_TRIALS = 60
STIFFER = 3.0

#: Factors of the damping after a step that was taken, and after one that was not.
RELAXED, STIFFENED = 0.2, 5.0

#: A step is accepted where it gains this share of what the quadratic model promises.
LEAST_GAIN = 0.1

#: An undamped step no longer than this is accepted whatever the value.
NEAR = 0.1


class Workspace(NamedTuple):
    """Scratch space for a step in P parameters."""

    layout: IntegerMatrix  #: (P, 2) the parameters as (row, column), see above
    metric: Vector  #: (P,) the diagonal of M
    gradient: Vector  #: (P,)
    hessian: Matrix  #: (P, P)
    step: Vector  #: (P,)
    factor: Matrix  #: (P, P) of the damped Hessian, its diagonal inverted
    hermite: Vector  #: (5**dim,) expectations of x times Hermite polynomials


@kernel
def workspace(dim):
    """Scratch space for steps of the full family in `dim` dimensions."""
    most = dim + dim * (dim + 1) // 2
    return Workspace(
        np.empty((most, 2), np.int64),
        np.empty(most),
        np.empty(most),
        np.empty((most, most)),
        np.empty(most),
        np.empty((most, most)),
        np.empty(5**dim),
    )


@kernel
def lay_out(family, dim, space):
    """Write the layout and the metric of a family; the number of rows of the layout."""
    layout, metric = space.layout, space.metric
    for a in range(dim):
        layout[a, 0], layout[a, 1] = a, -1
        metric[a] = 1.0
    operations.metric(family, dim, metric)
    return operations.lay_out(family, dim, layout)


@inlined
def _place(axis):
    """The weight of an axis in the number of a moment: 1, 5, 25 (`moments.MOMENTS`)."""
    return (1, 5, 25)[axis]


@kernel
def _hermite(moments, dim, out):
    """Write E[x He_a(xi_0) He_b(xi_1) He_c(xi_2)], a + b + c <= 4, in the order of the moments."""
    copy_vector(moments[: out.size], out)
    for axis in range(dim):
        one = _place(axis)
        next_, last = _place((axis + 1) % dim), _place((axis + 2) % dim)
        for i in range(5):
            for j in range(5 - i if dim > 2 else 1):
                k, degree = i * next_ + j * last, 4 - i - j
                if degree > 3:
                    out[k + 4 * one] += 3.0 * out[k] - 6.0 * out[k + 2 * one]
                if degree > 2:
                    out[k + 3 * one] -= 3.0 * out[k + one]
                if degree > 1:
                    out[k + 2 * one] -= out[k]


@inlined
def _differentiate_2(m, full, gradient, hessian):
    """`differentiate` in two dimensions: 20 ns instead of 340."""
    h10, h01, h11 = m[1], m[5], m[6]
    h20, h02 = m[2] - m[0], m[10] - m[0]
    h30, h21, h12, h03 = m[3] - 3.0 * h10, m[7] - h01, m[11] - h10, m[15] - 3.0 * h01
    h40, h31 = m[4] - 6.0 * m[2] + 3.0 * m[0], m[8] - 3.0 * h11
    h22, h13 = m[12] - m[2] - h02, m[16] - 3.0 * h11
    h04 = m[20] - 6.0 * m[10] + 3.0 * m[0]
    gradient[0], gradient[1], gradient[2] = h10, h01, h20
    hessian[0, 0] = h20 + 1.0
    hessian[1, 0], hessian[1, 1] = h11, h02 + 1.0
    hessian[2, 0], hessian[2, 1], hessian[2, 2] = h30, h21, h40 + h20 + 2.0
    if full:
        gradient[3] = h11
        hessian[3, 0], hessian[3, 1], hessian[3, 2], hessian[3, 3] = h21, h12, h31 + h11, h22 + h02 + 1.0
        hessian[4, 3] = h13
    i = 4 if full else 3
    gradient[i] = h02
    hessian[i, 0], hessian[i, 1], hessian[i, 2], hessian[i, i] = h12, h03, h22, h04 + h02 + 2.0


@kernel
def differentiate(moments, family, dim, count, space):
    """Write the gradient and the Hessian of E_q[x]; the number of parameters.

    By Stein's identity a derivative of E_q[x] is the expectation of x times Hermite polynomials: for delta_a
    He_a, for T_ab He_ab, for T_ab and T_cd He_abcd, plus He_ac where b = d. `count` is that of `lay_out`.
    """
    layout, gradient, hessian, table = space.layout, space.gradient, space.hessian, space.hermite
    if dim == 1:
        # 1-D special case: 5 ns instead of 52. (`_solve_1` does the same for the step: 21 ns instead of 85.)
        m0, m1, m2, m3, m4 = moments[0], moments[1], moments[2], moments[3], moments[4]
        gradient[0], hessian[0, 0] = m1, m2 - m0 + 1.0
        if count > 1:
            gradient[1] = m2 - m0
            hessian[1, 0], hessian[1, 1] = m3 - 3.0 * m1, m4 - 5.0 * m2 + 2.0 * m0 + 2.0
        return count
    if dim == 2:
        _differentiate_2(moments, count == 5, gradient, hessian)
    else:
        _hermite(moments, dim, table)
        for i in range(count):
            a, b = layout[i]
            place = _place(a) + (_place(b) if b >= 0 else 0)
            gradient[i] = table[place]
            for j in range(i + 1):
                c, d = layout[j]
                hessian[i, j] = table[place + _place(c) + (_place(d) if d >= 0 else 0)]
                if b == d and b >= 0:
                    hessian[i, j] += table[_place(a) + _place(c)]
            hessian[i, i] += 2.0 if a == b else 1.0
    return operations.fold(family, dim, count, gradient, hessian)


@inlined
def length(count, space):
    """The length of the step in the metric M."""
    step, metric = space.step, space.metric
    total = 0.0
    for i in range(count):
        total += metric[i] * step[i] * step[i]
    return math.sqrt(total)


@kernel
def dual_length(count, space):
    """The length of the gradient in the inverse metric."""
    gradient, metric = space.gradient, space.metric
    total = 0.0
    for i in range(count):
        total += gradient[i] * gradient[i] / metric[i]
    return math.sqrt(total)


@kernel
def factorise(damping, least, count, space):
    """Factor H + damping M, the diagonal inverted; False where the pivots are not above `least`."""
    hessian, metric, factor = space.hessian, space.metric, space.factor
    for i in range(count):
        for j in range(i + 1):
            s = hessian[i, j]
            if i == j:
                s += damping * metric[i]
            for k in range(j):
                s -= factor[i, k] * factor[j, k]
            if i > j:
                factor[i, j] = s * factor[j, j]
            elif s > least:
                factor[i, i] = 1.0 / math.sqrt(s)
            else:
                return False
    return True


@inlined
def solve(count, space):
    """Write the step for the matrix that was factorised last; its gain to second order."""
    gradient, step, factor = space.gradient, space.step, space.factor
    gain = 0.0
    for i in range(count):
        s = -gradient[i]
        for k in range(i):
            s -= factor[i, k] * step[k]
        step[i] = s * factor[i, i]
        gain += 0.5 * step[i] * step[i]
    for i in range(count - 1, -1, -1):
        s = step[i]
        for k in range(i + 1, count):
            s -= factor[k, i] * step[k]
        step[i] = s * factor[i, i]
    return gain


@inlined
def _solve_1(damping, count, space):
    """`factorise`, `solve` and `length` in one dimension: (gain, squared length or NaN where indefinite)."""
    gradient, hessian, step = space.gradient, space.hessian, space.step
    a, g = hessian[0, 0] + damping, gradient[0]
    if count == 1:
        step[0] = -g / a
        return -0.5 * g * step[0], step[0] * step[0] if a > LEAST_PIVOT else math.nan
    b, c, h = hessian[1, 0], hessian[1, 1] + 2.0 * damping, gradient[1]
    det = a * c - b * b
    inverse = 1.0 / det
    step[0], step[1] = inverse * (b * h - c * g), inverse * (b * g - a * h)
    square = step[0] * step[0] + 2.0 * (step[1] * step[1])
    good = a > LEAST_PIVOT and det > LEAST_PIVOT * a
    return -0.5 * (g * step[0] + h * step[1]), square if good else math.nan


@kernel
def find_step(damping, dim, count, space):
    """Write a step with at least this damping; (damping used, gain expected, length)."""
    for _ in range(MOST_TRIALS):
        if dim == 1:
            gain, square = _solve_1(damping, count, space)
            if square <= TRUST * TRUST:
                return damping, gain, math.sqrt(square)
        elif factorise(damping, LEAST_PIVOT, count, space):
            gain = solve(count, space)
            size_ = length(count, space)
            if size_ <= TRUST:
                return damping, gain, size_
        damping = max(STIFFER * damping, LEAST_DAMPING)
    # Not even a tiny step along the gradient is finite.
    for i in range(count):
        space.step[i] = 0.0
    return damping, 0.0, 0.0


@kernel
def relaxed(damping):
    """The damping after a step that was accepted: none where it would be negligible."""
    return RELAXED * damping if damping > 0.5 * LEAST_DAMPING else 0.0


@kernel
def stiffened(damping):
    """The damping after a step that was rejected."""
    return max(STIFFENED * damping, LEAST_DAMPING)


@kernel
def move(mean, factor, family, dim, count, space, new_mean, new_factor):
    """Take the step: new_mean = mean + factor delta, new_factor = factor (I + T)."""
    layout, step = space.layout, space.step
    if dim == 1:
        new_mean[0] = mean[0] + factor[0, 0] * step[0]
        new_factor[0, 0] = factor[0, 0] + factor[0, 0] * step[1] if count > 1 else factor[0, 0]
        return
    for i in range(dim):
        new_mean[i] = mean[i]
        for a in range(dim):
            new_mean[i] += factor[i, a] * step[a]
            new_factor[i, a] = factor[i, a]
    for k in range(dim, operations.unfold(family, dim, count, step)):
        a, b = layout[k]
        for i in range(dim):
            new_factor[i, b] += factor[i, a] * step[k]


def descend(problem, family, mean, chol, tolerance, space):
    """Template (`evaluate`): damped Newton steps until they are shorter than `tolerance`.

    ``evaluate(problem, mean, chol, space, moments)`` gives (value, nodes). `space` has the fields newton,
    trial_mean, trial_chol, moments and trial_moments. Returned: (nodes used, the value before the last step,
    whether it ended at a minimum).
    """
    parts = space.newton
    dim = mean.size
    new_mean, new_chol = space.trial_mean, space.trial_chol
    count = lay_out(family, dim, parts)
    kept, trial = space.moments, space.trial_moments
    value, nodes = evaluate(problem, mean, chol, space, kept)  # noqa: F821
    used = differentiate(kept, family, dim, count, parts)
    damping = 0.0
    for _ in range(MOST_STEPS):
        if not abs(value) < math.inf:
            break
        damping, gain, size = find_step(damping, dim, used, parts)
        move(mean, chol, family, dim, used, parts, new_mean, new_chol)
        near = size <= NEAR and damping == 0.0
        if near and size <= tolerance:
            minimum = factorise(0.0, LEAST_CURVATURE, used, parts)
            copy_vector(new_mean, mean)
            copy_matrix(new_chol, chol)
            return nodes, value, minimum
        new_value, n = evaluate(problem, new_mean, new_chol, space, trial)  # noqa: F821
        nodes += n
        # Values on a coarse lattice are off by their errors: a short Newton step is accepted regardless.
        if near or new_value <= value - LEAST_GAIN * gain:
            value = new_value
            copy_vector(new_mean, mean)
            copy_matrix(new_chol, chol)
            copy_vector(trial, kept)
            used = differentiate(kept, family, dim, count, parts)
            damping = relaxed(damping)
        else:
            damping = stiffened(damping)
            if not damping < MOST_DAMPING:
                break
    return nodes, value, False
