"""Gaps of zero density under a q of one latent coordinate: they make its ELBO -inf, wherever the nodes are.

The lattice of an expectation has 45 nodes there. More points tell, and those of a fit are taken once, under
the q that is returned.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from ..common.values import Array
from ..distributions.mixture import GaussianMixture
from ..distributions.student import StudentT, radii
from ..distributions.variational import TruncatedGaussian, Variational, latent_of
from .kernel_calls import fault_among, log_densities
from .model import Model
from .sharing import is_small

#: Points within so many of q's deviations from its mean: where its density is above exp(-32) of the largest.
_REACH = 8.0

#: Points for an ELBO; for that of a fit, in small models (14 of 45 µs), and where an evaluation may take
#: long: a fit has 132.
ELBO_POINTS, _FIT_POINTS, _FEW_POINTS = 1601, 801, 161


def points_of_fit(model: Model) -> int:
    """How many points are checked under the q of a fit."""
    return _FIT_POINTS if is_small(model) else _FEW_POINTS


def gap_under(model: Model, q: Variational, count: int) -> tuple[int, Array | None, int]:
    """(The fault of the log joint at so many points under q, or FINE; where; evaluations)."""
    if isinstance(q, TruncatedGaussian):
        points = _under_truncated(q, count)
        values, failed = model._tabulate(points)
        return *fault_among(points, values, failed), count
    points = _under(latent_of(q), count)[:, None]
    status, _, where = log_densities(model, points)
    return status, where, len(points)


def _under(q: Any, count: int) -> Array:
    """The points under a Gaussian, a mixture of one, or a t, of one coordinate."""
    if isinstance(q, GaussianMixture):
        (q,) = q.components
    steps = _steps(count)
    if isinstance(q, StudentT):
        # Twice as many, and in a tail with as much beyond as a Gaussian has at half of the distance.
        steps, beyond = _steps(2 * count), _beyond(2 * count)
        lengths = np.maximum(radii(q.df, 0.5, 0.5 * q.df, 1.0 - beyond, beyond), np.abs(steps))
        steps = np.copysign(lengths, steps)
    points: Array = q._mean + q._factor[0] * steps
    return points


@lru_cache(maxsize=4)
def _steps(count: int) -> Array:
    """The points under a standard Gaussian."""
    return np.linspace(-_REACH, _REACH, count)


@lru_cache(maxsize=4)
def _beyond(count: int) -> Array:
    """The share of a standard Gaussian that is beyond half of each of these, on both sides."""
    return np.array([math.erfc(0.5 * abs(x) / math.sqrt(2.0)) for x in _steps(count).tolist()])


def _under_truncated(q: TruncatedGaussian, count: int) -> Array:
    """The points (count, 1) inside of the ends, in the model's coordinates."""
    reach = _REACH * q.sigma
    mode = min(max(q.mu, q.low), q.high)
    off = abs(mode - q.mu)
    far = reach * reach / (math.hypot(off, reach) + off)
    ends = max(q.low, mode - far), min(q.high, mode + far)
    found: Array = np.linspace(*ends, count + 2)[1:-1, None]
    return found
