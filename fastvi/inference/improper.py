"""Posteriors whose mass has no end: the log joint falls off too slowly along a coordinate, or not at all.

A fit may converge beside it, in a mode or where 1 / |z| is highest, and its draws see nothing of it.
"""

from __future__ import annotations

import math

import numpy as np

from ..common.values import Array
from ..distributions.gaussian import Gaussian
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero
from .model import Model

#: Distances from q's mean, in its deviations, that are looked at first, and that confirm.
_FIRST, _SCALES = (1e3, 1e6), (1e3, 1e6, 1e9, 1e12)

#: So many nats may be lost from one distance to the next: of 1 / |z| there is as much mass in each, and what
#: falls off as |z| to the power of -1.1 loses 0.7.
_LOST = 0.1

#: Deviation of the Gaussians that confirm, as a share of their distance, and their pairs of draws.
_WIDTH, _PAIRS = 0.2, 48


def is_improper(model: Model, mean: Array, factor: Array) -> tuple[bool, int]:
    """(whether Gaussians far out have ELBOs that distance does not lower, evaluations).

    If those at all of infinitely many distances are above some number, the evidence is infinite. They are on
    one side along a coordinate, or around q in all directions.
    """
    dim = mean.size
    if model._calls_are_dear:  # functions of arrays in Python, which may warn so far out
        return False, 0
    deviations = Gaussian._from_factor(mean, factor)._deviations
    if not np.isfinite(deviations).all():
        return False, 0
    steps = np.concatenate([np.diag(deviations), -np.diag(deviations)])
    points = mean + np.multiply.outer(_FIRST, steps)
    near, far = densities_or_zero(model, points.reshape(-1, dim)).reshape(2, 2 * dim)
    ratio = math.log(_FIRST[1] / _FIRST[0])
    with np.errstate(invalid="ignore"):
        falls = (near - far) / ratio
    margin = _LOST / ratio
    used, noise = points.size // dim, writable(fixed_draws(1, max(_PAIRS, dim), dim))
    # (the step to the Gaussian's centre, what widens of it, for a distance of one deviation)
    ways = [(steps[k], _WIDTH * np.abs(steps[k])) for k in np.flatnonzero(falls <= 1.0 + margin).tolist()]
    if (falls <= dim + margin).all():
        ways.append((np.zeros(dim), deviations))
    for step, widening in ways:
        before = -math.inf
        for scale in _SCALES:
            spread = np.where(widening > 0.0, scale * widening, deviations)
            values = densities_or_zero(model, mean + scale * step + noise * spread)
            used += len(noise)
            value = float(values.mean()) + float(np.log(spread).sum())
            if not value > max(before - _LOST, -math.inf):
                break
            before = value
        else:
            return True, used
    return False, used
