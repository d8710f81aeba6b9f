"""Posteriors whose mass has no end: the log joint falls off too slowly, or not at all, somewhere far out.

A fit may converge beside it, in a mode or where 1 / |z| is highest, and none of its draws is there.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .. import kernels
from ..common.values import Array
from ..kernels.statuses import FINE, UNBOUNDED
from .curves import Tails, tails_along_curves
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero, deviations_of
from .model import Model

#: Distances of the Gaussians that confirm it, in q's deviations: no prior is wider, and squares are floats.
_SCALES = (1e3, 1e6, 1e9, 1e12, 1e25, 1e50, 1e75, 1e100)

#: Evaluations for marginal densities, as a share of those of a fit, and at least so many for each dimension,
#: in up to ten: a fit of eight groups and their deviation that ended on the wrong peak took 840.
_SHARE_OF_FIT, _LEAST_EACH, _LEAST_DIM = 0.2, 60.0, 10

#: Deviation of these Gaussians, as a share of their distance, and their pairs of draws.
_WIDTH, _PAIRS = 0.2, 48


def tails_of(model: Model, mean: Array, factor: Array, most: float) -> Tails:
    """UNBOUNDED where the posterior has mass without end far from q, and what its density does there.

    Along curves as well where these may be more than 0 evaluations, and then not many above `most`.
    UNCONFIRMED where it has another peak there, or no end, and FINE where nothing was found.
    """
    if model._calls_are_expensive:  # functions of arrays in Python, which may warn so far out
        return Tails(FINE, 0)
    improper, used = _has_level_elbos(model, mean, deviations_of(factor))
    if improper:
        return Tails(UNBOUNDED, used)
    found = tails_along_curves(model, mean, factor, most)
    return found._replace(evaluations=used + found.evaluations)


def tails_after(model: Model, mean: Array, factor: Array, spent: float) -> Tails:
    """What `tails_of` finds after a fit of so many evaluations; marginal densities may take a share."""
    most = max(_SHARE_OF_FIT * spent, _LEAST_EACH * min(mean.size, _LEAST_DIM))
    return tails_of(model, mean, factor, most)


def _has_level_elbos(model: Model, mean: Array, deviations: Array) -> tuple[bool, int]:
    """(whether Gaussians far out have ELBOs that distance does not lower, evaluations).

    If those at all of infinitely many distances are above some number, the evidence is infinite. They are on
    one side along a coordinate, or around q in all directions.
    """
    dim, tails = mean.size, kernels.inference.confirmation
    falls, used = _falls(model, mean, deviations)
    slow = [k for k, fall in enumerate(falls) if tails.is_slow(fall, 1)]
    around = all(tails.is_slow(fall, dim) for fall in falls)
    if not (slow or around) or not np.isfinite(deviations).all():
        return False, used
    # (the step to the Gaussian's centre, what widens of it, for a distance of one deviation)
    steps = _points(dim)[: 2 * dim] / tails.FAR[0] * deviations
    gaussians = [(steps[k], _WIDTH * np.abs(steps[k])) for k in slow]
    if around:
        gaussians.append((np.zeros(dim), deviations))
    noise = writable(fixed_draws(1, max(_PAIRS, dim), dim))
    for step, widening in gaussians:
        before = -math.inf
        for scale in _SCALES:
            spread = np.where(widening > 0.0, scale * widening, deviations)
            values = densities_or_zero(model, mean + scale * step + noise * spread)
            used += len(noise)
            value = float(values.mean()) + float(np.log(spread).sum())
            if not value > max(before - tails.MARGIN, -math.inf):
                break
            before = value
        else:
            return True, used
    return False, used


def has_light_tails(model: Model, mean: Array, factor: Array) -> tuple[bool, int]:
    """(whether the log joint of one real coordinate falls off on both sides of a Gaussian, evaluations).

    Then the posterior is proper, by 4 evaluations: the log evidence takes 2 to 500 ms. False where that is
    not known: in the plane, which may have a ridge in any direction, and with a support, near whose bounds z
    has no digits so far out.
    """
    deviations, tails = deviations_of(factor), kernels.inference.confirmation
    known = mean.size == 1 and model._support.is_real and not model._calls_are_expensive
    if not known or not np.isfinite([mean, deviations]).all():
        return False, 0
    falls, used = _falls(model, mean, deviations)
    return not any(tails.is_slow(fall, 1) for fall in falls), used


def _falls(model: Model, mean: Array, deviations: Array) -> tuple[list[float], int]:
    """(by how much the log joint falls far out, both ways along each coordinate, evaluations)."""
    values = densities_or_zero(model, mean + _points(mean.size) * deviations).tolist()
    half = len(values) // 2
    return [near - far for near, far in zip(values[:half], values[half:], strict=True)], len(values)


@lru_cache(maxsize=8)
def _points(dim: int) -> Array:
    """The points that are evaluated first, in deviations: both ways along each coordinate, near, then far."""
    units = np.concatenate([np.eye(dim), -np.eye(dim)])
    return np.concatenate([distance * units for distance in kernels.inference.confirmation.FAR])
