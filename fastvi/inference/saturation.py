"""What is not known where latent coordinates lead to numbers that floats do not tell from a bound.

Of Beta(0.1, 0.02) a third lies within 1e-16 of 1, where 1 - z has no digits. There a log joint is that of the
nearest number inside of the support, and here it is compared to the line that continues it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..common.statuses import is_fault
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.support import Support
from ..kernels.models.kinds import CORRELATION, INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER
from ..kernels.statuses import CONVERGED, SATURATED
from .kernel_calls import densities_or_zero, log_densities
from .model import Model

#: A q with its mean so many deviations inside has no mass beyond.
_NONE = 9.0

#: The slope of the log density is taken over so long a step, in the logarithm of the distance from a bound.
_STEP = 4.0

#: Factor for the curvature that the line leaves out.
_SAFETY = 2.0

#: Length of the line from a bound along which the density is integrated, and its points.
_LINE, _POINTS = 2e3, 4001


@lru_cache(maxsize=32)
def limits_of(support: Support) -> tuple[tuple[float, float], ...]:
    """The least and largest value of each latent coordinate from which z keeps digits; infinite for none."""
    found = []
    for kind, (low, high) in zip(support.kinds.tolist(), support.bounds.tolist(), strict=True):
        least, most = -math.inf, math.inf
        if kind == LOWER:
            least = _nearest(low, 1.0)
        elif kind == UPPER:
            least = _nearest(high, 1.0)
        elif kind == INTERVAL:
            least, most = _nearest(low, high - low), -_nearest(high, high - low)
        elif kind == SIMPLEX:
            least, most = (math.log(low) + sign * _nearest(0.0, 1.0) for sign in (1.0, -1.0))
        elif kind == ORDERED:
            least = _nearest(1.0, 1.0)
        else:
            assert kind in (REAL, CORRELATION)
        found.append((least, most))
    return tuple(found)


def _nearest(bound: float, width: float) -> float:
    lost = math.log(kernels.models.supports.CLOSE)  # spacings of floats in which z has no digits left
    return lost + math.log(float(np.spacing(abs(bound)))) - math.log(width)


def elbo_error(model: Model, mean: Array, factor: Array) -> float:
    """What the ELBO of a Gaussian may be off by for that: E_q of the difference to the line."""
    if model._support.is_real:
        return 0.0
    q, total = Gaussian._from_factor(mean, factor), 0.0
    deviations = q._deviations.tolist()
    for i, ends in enumerate(limits_of(model._support)):
        centre, deviation = mean.item(i), deviations[i]
        for end, inside in zip(ends, (1.0, -1.0), strict=True):
            depth = inside * (centre - end) / deviation
            if depth < _NONE:
                # The other coordinates as they are expected there.
                covariances = q.cov[i] if q._thin is None else q._thin.column(i)
                at_end = mean + covariances * ((end - centre) / deviation**2)
                difference = abs(_slope(model, at_end, i, inside) - 1.0)
                beyond = _density(depth) - depth * 0.5 * math.erfc(depth / math.sqrt(2.0))
                total += difference * deviation * beyond
    return _SAFETY * total


def beyond_limits(model: Model, means: Array, factors: Array) -> Array:
    """Which of many Gaussians have mass there: means (N, R), factors (N, R, R)."""
    if model._support.is_real:
        return np.zeros(len(means), np.bool_)
    least, most = np.array(limits_of(model._support)).T
    reach = _NONE * np.sqrt((factors * factors).sum(axis=2))
    beyond: Array = ((means - reach < least) | (means + reach > most)).any(axis=1)
    return beyond


def with_its_error(model: Model, mean: Array, factor: Array, report: Any, rtol: float) -> Any:
    """The report of a fit with the error of its ELBO from there, not converged where that is large."""
    if not math.isfinite(report.elbo) or is_fault(report.status):
        return report
    unknown = elbo_error(model, mean, factor)
    status = report.status
    if status == CONVERGED and unknown > max(report.error, rtol * (1.0 + abs(report.elbo))):
        status = SATURATED
    return report._replace(error=report.error + unknown, status=status)


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
    return _SAFETY * total


def _slope(model: Model, point: Array, i: int, inside: float) -> float:
    """The rise of log joint + log-Jacobian along a coordinate, for each unit; inf where it is zero there.

    Where z keeps no digits it is 1, that of the log-Jacobian.
    """
    points = np.stack([point, point])
    points[1, i] += _STEP * inside
    one, two = _densities(model, points).tolist()
    return (two - one) / _STEP if one > -math.inf else math.inf


def _densities(model: Model, points: Array) -> Array:
    """Log joint + log-Jacobian at latent points; -inf where that is not finite."""
    status, values, _ = log_densities(model, points)
    return densities_or_zero(model, points) if status else values


def _density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
