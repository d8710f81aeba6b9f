"""Posteriors whose mass has no end: the log joint falls off too slowly along a coordinate, or not at all.

A fit may converge beside it, in a mode or where 1 / |z| is highest, and its draws see nothing of it.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ..common.values import Array
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero
from .model import Model

#: Distances from q's mean, in its deviations, that are looked at first, and that confirm: farther than any
#: prior is wide, and squares are floats.
_FIRST, _SCALES = (1e3, 1e6), (1e3, 1e6, 1e9, 1e12, 1e25, 1e50, 1e75, 1e100)

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
    deviations = np.sqrt(np.einsum("ij,ij->i", factor, factor))
    values = densities_or_zero(model, mean + _looks(dim) * deviations).tolist()
    ratio, used = math.log(_FIRST[1] / _FIRST[0]), len(values)
    # Of what is -inf at both nothing is known: such a fall is NaN, and no fall.
    falls = [(near - far) / ratio for near, far in zip(values[: 2 * dim], values[2 * dim :], strict=True)]
    margin = _LOST / ratio
    slow = [k for k, fall in enumerate(falls) if fall <= 1.0 + margin]
    around = all(fall <= dim + margin for fall in falls)
    if not (slow or around):
        return False, used
    if not np.isfinite(deviations).all():
        return False, used
    # (the step to the Gaussian's centre, what widens of it, for a distance of one deviation)
    steps = _looks(dim)[: 2 * dim] / _FIRST[0] * deviations
    ways = [(steps[k], _WIDTH * np.abs(steps[k])) for k in slow]
    if around:
        ways.append((np.zeros(dim), deviations))
    noise = writable(fixed_draws(1, max(_PAIRS, dim), dim))
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


@lru_cache(maxsize=8)
def _looks(dim: int) -> Array:
    """Where is looked first, in deviations: both ways along each coordinate, near and then far."""
    units = np.concatenate([np.eye(dim), -np.eye(dim)])
    return np.concatenate([scale * units for scale in _FIRST])
