"""Divergences and entropies of Gaussian mixtures by quadrature, and their bounds without.

A mixture is its log weights (K), means (K, D) and Cholesky factors (K, D, D).
"""

from __future__ import annotations

import math

import numpy as np

from . import contours, expectations
from .expectations import MOST_NODES, STEP, integrate, integrate_own
from .gaussians import LOG_2PI, bhattacharyya, gaussian_kl, log_overlap
from .jit import exported, kernel
from .matrices import clear_matrix, clear_vector, copy_matrix, half_log_det
from .mixtures import see
from .newton import differentiate, lay_out
from .newton import workspace as newton_workspace
from .rows import left_out
from .whitening import ball, leave_out, refine, refine_own, rounding, set_steps, tail, turn


@exported
def workspace(components_p, components_q, dim):
    """Scratch space for `mixture_kl` and `reverse_kl`: one for each thread.

    Parameters
    ----------
    components_p, components_q : int
        As many as p and q have, or more.
    dim : int
        At most 3.

    Returns
    -------
    tuple

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.estimates.workspace(2, 1, 2)
    """
    work = expectations.workspace(max(components_p, components_q), dim)
    return work, newton_workspace(dim), np.empty((2, dim, dim))


@kernel
def _in_frame(p, q, k, factor, work):
    """The coefficients of both in the frame of component k of p; a bound of what was left out."""
    first, second = work[3][: p[0].size], work[4][: q[0].size]
    mean = p[1][k]
    see(p[0], p[1], p[2], mean, factor, first, work[9])
    see(q[0], q[1], q[2], mean, factor, second, work[9])
    dropped = leave_out(first, mean.size, work[7][3], work[9])
    dropped += leave_out(second, mean.size, work[7][3], work[9])
    turn(first, second, mean.size, factor, work[7], work[9])
    return first, second, dropped


@kernel
def _by_contours(p, q, rtol, space):
    """`mixture_kl` by sums along contours: (value, error, nodes); an infinite error where not."""
    work = space[0]
    components, dim = p[1].shape
    kept, table = work[6][0], work[10][0]
    level = contours.USUAL if rtol > 1e-8 else contours.FINEST
    total, error, floor, nodes = 0.0, 0.0, 0.0, 0
    for k in range(components):
        weight = math.exp(p[0][k])
        if weight == 0.0:
            continue
        first, second = work[3][:components], work[4][: q[0].size]
        see(p[0], p[1], p[2], p[1][k], p[2][k], first, work[9])
        see(q[0], q[1], q[2], p[1][k], p[2][k], second, work[9])
        floor = max(floor, rounding(first, second))
        # E[-|xi|**2 / 2] - E[log p], and the same for q.
        one, n = contours.expect(first, 0.0, dim, 1e-3 * rtol, level, table, kept)
        value, left = -kept[0], one
        nodes += n
        if second.shape[0] > 0:
            two, n = contours.expect(second, 0.0, dim, 1e-3 * rtol, level, table, kept)
            value, left = value + kept[0], left + two
            nodes += n
        else:
            value -= 0.5 * dim
        if not left < math.inf:
            return 0.0, math.inf, nodes
        total += weight * value
        error += weight * (left + 4.4e-16 * abs(value))
    return total, error + floor, nodes


@exported
def mixture_kl(p, q, rtol, space):
    """KL(p ‖ q) of two mixtures in up to three dimensions, by quadrature.

    The sum over the components of p of w_k E_k[log p - log q], each in the component's own frame. For q
    without components the result is minus the entropy of p.

    Parameters
    ----------
    p, q : tuples (log_weights, means, chols)
    rtol : float
        Error wanted, relative.
    space : tuple
        A `workspace`.

    Returns
    -------
    value, error, nodes, resolved
        `resolved` is False where the lattice would need too many nodes: then the error says nothing. NaN in
        an argument gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.7]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([np.eye(2), np.eye(2)])
    >>> q = np.zeros(1), np.array([[1.2, 0.0]]), np.array([np.diag([8.56**0.5, 1.0])])
    >>> space = kernels.estimates.workspace(2, 1, 2)
    >>> value, error, nodes, resolved = kernels.estimates.mixture_kl(p, q, 1e-10, space)
    >>> round(value, 9), error < 1e-9, resolved
    (0.466188952, True, True)
    """
    total, error, nodes = _by_contours(p, q, rtol, space)
    if error <= rtol * abs(total) + 1e-14:
        return total, error, nodes, True
    work, factor = space[0], space[2][0]
    components, dim = p[1].shape
    steps, shift, kept = work[5][0], work[5][1], work[6][0]
    clear_vector(shift)
    # What the whole sum is about says how well each part must be known.
    coarse, floor = 0.0, 0.0
    for k in range(components):
        copy_matrix(p[2][k], factor)
        first, second, _ = _in_frame(p, q, k, factor, work)
        floor = max(floor, rounding(first, second))
        set_steps(first, second, dim, STEP, 7.0, 1e5, steps)
        integrate(first, second, 0.0, dim, steps, shift, 7.0, 0, work, kept)
        coarse += math.exp(p[0][k]) * kept[0]
    wanted = max(rtol * abs(coarse), floor)
    total, error, nodes, resolved = 0.0, floor, 0, True
    for k in range(components):
        weight = math.exp(p[0][k])
        if weight == 0.0:
            continue
        copy_matrix(p[2][k], factor)
        first, second, dropped = _in_frame(p, q, k, factor, work)
        atol = wanted / (weight * components)
        radius = ball(first, second, dim, 0.1 * atol)
        fits = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
        nodes += integrate(first, second, 0.0, dim, steps, shift, radius, 0, work, kept)
        left, n = refine(first, second, dim, steps, radius, atol, work, kept)
        nodes += n
        total += weight * kept[0]
        error += weight * (left + dropped + tail(first, second, dim, radius) + 4.4e-16 * abs(kept[0]))
        resolved = resolved and fits
    return total, error, nodes, resolved


@exported
def reverse_kl(log_weights, means, chols, mean, chol, rtol, grad_mean, grad_chol, space):
    """KL(q ‖ p) for q = N(mean, chol chol') and a mixture p in up to three dimensions, with its gradient.

    Parameters
    ----------
    log_weights, means, chols : (K,), (K, D), (K, D, D)
    mean, chol : (D,), (D, D)
    rtol : float
        Error wanted, relative.
    grad_mean, grad_chol : (D,), (D, D)
        The gradient in the mean and in the lower triangle of the factor is written to them.
    space : tuple
        A `workspace` for K components.

    Returns
    -------
    value, error
        The error is infinite where the lattice would need too many nodes. NaN in an argument gives NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from fastvi import kernels
    >>> p = np.log([0.3, 0.7]), np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([np.eye(2), np.eye(2)])
    >>> grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
    >>> mean, chol, space = np.array([3.0, 0.0]), np.eye(2), kernels.estimates.workspace(2, 2, 2)
    >>> value, error = kernels.estimates.reverse_kl(*p, mean, chol, 1e-8, grad_mean, grad_chol, space)
    >>> round(value, 6), grad_mean.round(6) + 0.0
    (0.354256, array([0.008087, 0.      ]))
    """
    work, parts, factor = space[0], space[1], space[2][0]
    dim = mean.size
    steps, shift, kept = work[5][0], work[5][1], work[6][0]
    clear_vector(shift)
    first, second = work[3][:0], work[4][: log_weights.size]
    copy_matrix(chol, factor)
    see(log_weights, means, chols, mean, factor, second, work[9])
    own = -half_log_det(chol) - 0.5 * dim * LOG_2PI
    floor = rounding(first, second)
    error, _ = contours.expect(second, own, dim, max(0.1 * rtol, floor), contours.USUAL, work[10][0], kept)
    if error <= rtol * min(abs(kept[0]), 1.0) + floor:
        slopes(kept, chol, parts, grad_mean, grad_chol)
        return kept[0], error + floor
    dropped = leave_out(second, dim, work[7][3], work[9])
    radius = ball(first, second, dim, max(1e-3 * rtol, 0.1 * floor))
    fits = set_steps(first, second, dim, STEP, radius, MOST_NODES, steps)
    integrate_own(second, own, dim, steps, shift, radius, work, kept)
    error, _, _, _, settled = refine_own(
        second, own, dim, steps, radius, rtol, floor, max(rtol, 100.0 * floor), work, kept
    )
    error += floor + dropped + tail(first, second, dim, radius) + left_out(second.shape[0], dim, radius)
    slopes(kept, chol, parts, grad_mean, grad_chol)
    return kept[0], error if fits and settled else math.inf


@kernel
def slopes(moments, chol, parts, grad_mean, grad_chol):
    """Write the gradient in (mean, factor), from the moments in the frame of the factor itself."""
    dim = grad_mean.size
    count = lay_out(0, dim, parts.layout)
    differentiate(moments, 0, dim, count, parts)
    layout, gradient = parts.layout, parts.gradient
    clear_matrix(grad_chol)
    for i in range(count):
        a, b = layout[i]
        if b < 0:
            grad_mean[a] = gradient[i]
        else:
            grad_chol[a, b] = gradient[i]
    # d factor = factor dT: solve factor' G = gradient, a column at a time, and keep the lower triangle.
    for i in range(dim - 1, -1, -1):
        for k in range(i + 1, dim):
            grad_mean[i] -= chol[k, i] * grad_mean[k]
            for b in range(dim):
                grad_chol[i, b] -= chol[k, i] * grad_chol[k, b]
        grad_mean[i] /= chol[i, i]
        for b in range(dim):
            grad_chol[i, b] /= chol[i, i]
    for i in range(dim):
        for b in range(i + 1, dim):
            grad_chol[i, b] = 0.0


@kernel
def _add_log(top, total, value):
    """Streaming log-sum-exp: (top, total) with exp(value) added."""
    if value > top:
        return value, total * math.exp(top - value) + 1.0
    return top, (total + math.exp(value - top) if value > -math.inf else total)


@kernel
def _log_mean(log_weights, values):
    """log of the sum of exp(log_weights + values)."""
    top, total = -math.inf, 0.0
    for i in range(values.size):
        if log_weights[i] > -math.inf:
            top, total = _add_log(top, total, log_weights[i] + values[i])
    return top + math.log(total)


@kernel
def _gaussian_entropy(chol):
    """The entropy of a Gaussian."""
    return half_log_det(chol) + 0.5 * chol.shape[0] * (LOG_2PI + 1.0)


@exported
def entropy_bounds(log_weights, means, chols, values, matrix, work):
    """(lower, upper) for the entropy of a mixture, Kolchinsky & Tracey 2017, eq. 10 with Chernoff 1/2 and KL.

    `values` has 2 K numbers, `matrix` is (D, D), `work` has 2 D numbers: scratch.
    """
    components = log_weights.size
    lower, upper = 0.0, 0.0
    near, far = values[:components], values[components : 2 * components]
    for i in range(components):
        weight = math.exp(log_weights[i])
        if weight == 0.0:
            continue
        for j in range(components):
            near[j] = -bhattacharyya(means[i], chols[i], means[j], chols[j], matrix, work) if i != j else 0.0
            far[j] = -gaussian_kl(means[i], chols[i], means[j], chols[j], work) if i != j else 0.0
        own = _gaussian_entropy(chols[i])
        lower += weight * (own - _log_mean(log_weights, near))
        upper += weight * (own - _log_mean(log_weights, far))
    return lower, upper


@exported
def kl_bounds(p, q, values, matrix, work):
    """(lower, upper) for KL(p ‖ q) of two mixtures, from pairs of components; see `fastvi.kl_bounds`.

    `values` has 2 max(K_p, K_q) numbers, `matrix` is (D, D), `work` has 2 D numbers: scratch.
    """
    lower_entropy, upper_entropy = entropy_bounds(p[0], p[1], p[2], values, matrix, work)
    cross_least, cross_most, own_most = 0.0, 0.0, 0.0
    for a in range(p[0].size):
        weight = math.exp(p[0][a])
        if weight == 0.0:
            continue
        mean, chol = p[1][a], p[2][a]
        overlaps, distances = values[: q[0].size], values[q[0].size : 2 * q[0].size]
        for b in range(q[0].size):
            overlaps[b] = log_overlap(mean, chol, q[1][b], q[2][b], 1.0, matrix, work)[0]
            distances[b] = -gaussian_kl(mean, chol, q[1][b], q[2][b], work)
        # E_a[log q] is at most log of the overlap (Jensen), and at least this (variational).
        cross_most += weight * _log_mean(q[0], overlaps)
        cross_least += weight * (_log_mean(q[0], distances) - _gaussian_entropy(chol))
        own = values[: p[0].size]
        for b in range(p[0].size):
            own[b] = log_overlap(mean, chol, p[1][b], p[2][b], 1.0, matrix, work)[0]
        own_most += weight * _log_mean(p[0], own)
    return max(-upper_entropy - cross_most, 0.0), min(own_most, -lower_entropy) - cross_least


@exported
def all_kl(p, q, costs, work):
    """costs[a, b] = KL(p_a ‖ q_b)."""
    for a in range(p[0].size):
        for b in range(q[0].size):
            costs[a, b] = gaussian_kl(p[1][a], p[2][a], q[1][b], q[2][b], work)


@exported
def matched_bound(p, q, phi, psi, costs, rounds):
    """Hershey & Olsen's variational upper bound of KL(p ‖ q), eq. 20 to 25; all arrays (K_p, K_q).

    `costs` holds KL(p_a ‖ q_b). Each round lowers the bound.
    """
    m, n = costs.shape
    for a in range(m):
        for b in range(n):
            phi[a, b] = math.exp(p[0][a] + q[0][b])
    for _ in range(rounds):
        for b in range(n):
            column = 0.0
            for a in range(m):
                column += phi[a, b]
            for a in range(m):
                psi[a, b] = math.exp(q[0][b]) * phi[a, b] / column if column > 0.0 else 0.0
        for a in range(m):
            row = 0.0
            for b in range(n):
                phi[a, b] = psi[a, b] * math.exp(-costs[a, b])
                row += phi[a, b]
            for b in range(n):
                phi[a, b] = math.exp(p[0][a]) * phi[a, b] / row if row > 0.0 else 0.0
    # With the last psi fixed phi is optimal: the bound needs masses that still add up.
    total, mass_p = 0.0, 0.0
    for a in range(m):
        for b in range(n):
            if phi[a, b] > 0.0:
                total += phi[a, b] * (math.log(phi[a, b] / psi[a, b]) + costs[a, b])
                mass_p += phi[a, b]
    return total if abs(mass_p - 1.0) < 1e-9 else math.inf
