"""Second derivatives of a log joint by differences of its gradients, in units that they give themselves."""

from __future__ import annotations

import math

import numpy as np

from ..compiler import kernel
from ..statuses import FINE
from .gradients import tabulate

#: Steps of the differences, in deviations; how often the unit is estimated, by which factor it changes at
#: most, and second derivatives in this unit whose differences are right.
STEP, ROUNDS, MOST_CHANGE, LEAST_CURVATURE, MOST_CURVATURE = 1e-5, 8, 1e3, 1e-8, 1e6


@kernel
def curvature(log_joint, log_joint_grad, problem, unit, points, values, slopes, precision, space):
    """Write minus the second derivatives at the first of R + 1 points, and the values and gradients at all.

    The `unit` (R,), a guess, becomes the conditional deviations, in units of which are the first gradient
    and the precision. What is not finite is zero, and a coordinate of which nothing is known has a second
    derivative of 1. (status, evaluations).
    """
    dim, used = unit.size, 0
    mean, gradient = points[0], slopes[0]
    for _ in range(ROUNDS):
        for k in range(dim):
            for i in range(dim):
                points[1 + k, i] = mean[i]
            points[1 + k, k] += STEP * unit[k]
        status, _ = tabulate(log_joint, log_joint_grad, problem, points, unit, space, values, slopes)
        used += dim + 1
        if status != FINE:
            return status, used
        for k in range(dim + 1):
            for i in range(dim):
                slopes[k, i] *= unit[i]
        for k in range(dim):
            length = (points[1 + k, k] - mean[k]) / unit[k]
            for i in range(dim):
                precision[k, i] = (gradient[i] - slopes[1 + k, i]) / length
        for i in range(dim):
            for j in range(i + 1):
                precision[i, j] = precision[j, i] = 0.5 * (precision[i, j] + precision[j, i])
        if not np.isfinite(slopes).all():
            _fill(gradient, precision)
        if _rescale(unit, gradient, precision):
            break
    return FINE, used


@kernel
def _fill(gradient, precision):
    """Replace what is not finite."""
    dim = gradient.size
    for i in range(dim):
        if not (math.isfinite(precision[i, i]) and math.isfinite(gradient[i])):
            gradient[i] = 0.0
            for j in range(dim):
                precision[i, j] = precision[j, i] = 0.0
            precision[i, i] = 1.0
    for i in range(dim):
        for j in range(dim):
            if not math.isfinite(precision[i, j]):
                precision[i, j] = 0.0


@kernel
def _rescale(unit, gradient, precision):
    """Take the conditional deviations for the unit; whether the differences had the right length."""
    dim, right, ratio = unit.size, True, np.empty(unit.size)
    for i in range(dim):
        size = abs(precision[i, i])
        right &= LEAST_CURVATURE <= size <= MOST_CURVATURE
        ratio[i] = 1.0 / np.sqrt(size)
        if ratio[i] < 1.0 / MOST_CHANGE:
            ratio[i] = 1.0 / MOST_CHANGE
        elif ratio[i] > MOST_CHANGE:
            ratio[i] = MOST_CHANGE
        unit[i] *= ratio[i]
        gradient[i] *= ratio[i]
    for i in range(dim):
        for j in range(dim):
            precision[i, j] = precision[i, j] * ratio[j] * ratio[i]
    return right
