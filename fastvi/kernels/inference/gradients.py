"""Gradients of a log joint at points, by the user's function or finite differences, for fits on draws."""

from __future__ import annotations

import math

from numba import types

from ..compiler import kernel, overloaded
from ..models.calling import tabulate_gradients
from ..models.evaluation import evaluate, fault, point_out
from ..models.supports import is_real, pull_back, to_support
from ..statuses import FINE, RAISED

#: Step of central differences, in conditional standard deviations: truncation error 1e-9, rounding 1e-11.
DIFFERENCE = 1e-4

#: Step of one-sided differences, which take half as many evaluations. Their error is half of it, in units of
#: the conditional deviations; in the coordinates of `root` 500 times as much for an intercept and a year.
ONE_SIDED = 4e-6


@kernel
def sides_for(tolerance, root, scale):
    """1 where the error of differences to one side is less than a hundredth of the tolerance, else 2."""
    widest = 0.0
    for i in range(scale.size):
        s = root[0, i] * root[0, i]
        if root.shape[0] == scale.size:
            s = 0.0
            for j in range(i + 1):
                s += root[i, j] * root[i, j]
        widest = max(widest, s / (scale[i] * scale[i]))
    return 1 if 100.0 * ONE_SIDED * math.sqrt(widest) <= tolerance else 2


@kernel
def _differences(log_joint, problem, count, scale, sides, space):
    """Differences to one side or to both at `count` points, and the values there; (status, evaluations)."""
    points, panel = space.points, space.panel
    dim = scale.size
    each = sides * dim + 1
    step = DIFFERENCE if sides == 2 else ONE_SIDED
    together = max(panel.latent.shape[0] // each, 1)
    values, log_jacobian = panel.log_joint, panel.log_jacobian
    used = 0
    for low in range(0, count, together):
        n = min(together, count - low)
        for k in range(n):
            row = k * each
            for r in range(row, row + each):
                for i in range(dim):
                    panel.latent[r, i] = points[low + k, i]
            for i in range(dim):
                panel.latent[row + 1 + i, i] += step * scale[i]
                if sides == 2:
                    panel.latent[row + 1 + dim + i, i] -= step * scale[i]
        status = evaluate(log_joint, problem, n * each, panel)
        used += n * each
        if status == FINE:
            status = fault(problem, n * each, panel)
        if status != FINE:
            return status, used
        for k in range(n):
            row = k * each
            panel.values[low + k] = values[row] + log_jacobian[row]
            for i in range(dim):
                up = row + 1 + i
                down = up + dim if sides == 2 else row
                rise = (values[up] - values[down]) + (log_jacobian[up] - log_jacobian[down])
                space.latent_gradients[low + k, i] = rise / (sides * step * scale[i])
    return FINE, used


@kernel
def _given(log_joint_grad, problem, count, space):
    """The user's gradients at `count` points, in the latent coordinates; (status, evaluations)."""
    points, panel = space.points, space.panel
    kinds, bounds = problem.kinds, problem.bounds
    real = is_real(kinds)
    if real:
        for n in range(count):
            for i in range(points.shape[1]):
                panel.latent[n, i] = points[n, i]
    else:
        to_support(kinds, bounds, points, count, panel.z, panel.log_jacobian)
    places = panel.latent if real else panel.z
    failed = tabulate_gradients(log_joint_grad, problem.data, places, count, panel.log_joint, space.gradients)
    if failed != 0:
        point_out(problem, failed - 1, panel)
        return RAISED, count
    status = fault(problem, count, panel)
    if status != FINE:
        return status, count
    for n in range(count):
        panel.values[n] = panel.log_joint[n] + (0.0 if real else panel.log_jacobian[n])
        if real:
            for i in range(kinds.size):
                space.latent_gradients[n, i] = space.gradients[n, i]
        else:
            pull_back(kinds, bounds, points[n], panel.z[n], space.gradients[n], space.latent_gradients[n])
    return FINE, count


def gradients_at(log_joint, log_joint_grad, problem, count, scale, sides, space):
    """Write values and gradients at the first `count` points of a space; (status, evaluations).

    Without a `log_joint_grad` (None, or the address 0) by differences to one side or to both: `sides` is 1
    or 2.
    """
    if log_joint_grad is None:
        return _differences(log_joint, problem, count, scale, sides, space)
    return _given(log_joint_grad, problem, count, space)


@overloaded(gradients_at)
def _overload_gradients_at(log_joint, log_joint_grad, problem, count, scale, sides, space):
    if isinstance(log_joint_grad, types.NoneType | types.Omitted):
        return lambda log_joint, log_joint_grad, problem, count, scale, sides, space: _differences(
            log_joint, problem, count, scale, sides, space
        )
    if isinstance(log_joint_grad, types.Integer):

        def by_address(log_joint, log_joint_grad, problem, count, scale, sides, space):
            if log_joint_grad == 0:
                return _differences(log_joint, problem, count, scale, sides, space)
            return _given(log_joint_grad, problem, count, space)

        return by_address
    return lambda log_joint, log_joint_grad, problem, count, scale, sides, space: _given(
        log_joint_grad, problem, count, space
    )


@kernel
def tabulate(log_joint, log_joint_grad, problem, points, scale, space, values, slopes):
    """Write log joint + log-Jacobian and its gradients at latent points (N, R); (status, evaluations).

    Central differences, where there is no gradient, are in units of `scale`.
    """
    dim, used, rows = points.shape[1], 0, space.points.shape[0]
    for low in range(0, points.shape[0], rows):
        n = min(rows, points.shape[0] - low)
        for k in range(n):
            for i in range(dim):
                space.points[k, i] = points[low + k, i]
        status, more = gradients_at(log_joint, log_joint_grad, problem, n, scale, 2, space)
        used += more
        if status != FINE:
            return status, used
        for k in range(n):
            values[low + k] = space.panel.values[k]
            for i in range(dim):
                slopes[low + k, i] = space.latent_gradients[k, i]
    return FINE, used
