"""What is not known where latent coordinates lead to numbers that floats do not tell from a bound.

Of an ELBO `kernels.inference.saturation` says it, for compiled code and C as well.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..common.statuses import is_fault
from ..common.values import Array
from ..distributions.support import Support
from .kernel_calls import densities_or_zero, log_densities, workspace
from .model import Model, target_of

#: Length of the line from a bound along which the density is integrated, and its points.
_LINE, _POINTS = 2e3, 4001


@lru_cache(maxsize=32)
def limits_of(support: Support) -> tuple[tuple[float, float], ...]:
    """The least and largest value of each latent coordinate from which z keeps digits; infinite for none."""
    found = np.empty((support.kinds.size, 2))
    kernels.inference.entry_points.limits(support.kinds, support.bounds, found)
    return tuple((least, most) for least, most in found.tolist())


def elbo_error(model: Model, mean: Array, factor: Array) -> float:
    """What the ELBO of a Gaussian may be off by for that: E_q of the difference to the line.

    The factor is a Cholesky factor, or one of `kernels.families.low_rank`.
    """
    if model._support.is_real:
        return 0.0
    space = workspace("laplace", mean.size, model.dim)
    found: float = kernels.inference.entry_points.lost_at_bounds(target_of(model), mean, factor, space)
    model._raise_pending()
    return found


def with_its_error(model: Model, mean: Array, factor: Array, report: Any, rtol: float) -> Any:
    """The report of a fit with the error of its ELBO from there, not converged where that is large."""
    if not math.isfinite(report.elbo) or is_fault(report.status):
        return report
    return kernels.inference.saturation.with_lost(report, elbo_error(model, mean, factor), rtol)


def evidence_error(model: Model, mean: Array, value: float) -> float:
    """What the log evidence may be off by for that, by the density on lines through a point."""
    if model._support.is_real or not math.isfinite(value):
        return 0.0
    total = 0.0
    for i, ends in enumerate(limits_of(model._support)):
        direction = np.zeros(mean.size)
        direction[i] = 1.0
        for end, inside in zip(ends, (1.0, -1.0), strict=True):
            if not math.isfinite(end):
                continue
            at_end = mean + direction * (end - mean.item(i))
            slope = _slope(model, at_end, i, inside)
            if not slope > 0.0:
                continue  # the integral itself finds no end of such a density, or is zero there
            line = mean + np.linspace(end, end + inside * _LINE, _POINTS)[:, None] * direction
            line[:, i] -= mean.item(i)
            logs = densities_or_zero(model, line)
            top = float(logs.max())
            mass = float(np.exp(logs - top).sum()) * _LINE / (_POINTS - 1)
            height = math.exp(min(float(_densities(model, at_end[None])[0]) - top, 0.0))
            total += height * abs(1.0 / slope - 1.0) / mass
    return float(kernels.inference.saturation.SAFETY * total)


def _slope(model: Model, point: Array, i: int, inside: float) -> float:
    """The rise of log joint + log-Jacobian along a coordinate, for each unit; inf where it is zero there."""
    points = np.stack([point, point])
    points[1, i] += kernels.inference.saturation.STEP * inside
    slope: float = kernels.inference.saturation.rise(*_densities(model, points).tolist())
    return slope


def _densities(model: Model, points: Array) -> Array:
    """Log joint + log-Jacobian at latent points; -inf where that is not finite."""
    status, values, _ = log_densities(model, points)
    return densities_or_zero(model, points) if status else values
