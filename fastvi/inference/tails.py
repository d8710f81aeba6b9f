"""Log joints that fall exponentially along a coordinate, as that of a Gamma does in log z.

A few draws far out make their average: for Gamma(0.1) half of it lies where one draw in 1,000 is, and of ten
stated errors one was four times too small. What is found here has a known expectation, and is taken off.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..common.values import Array
from .kernel_calls import densities_or_zero
from .model import Model

#: How far from q's mean it is seen whether a tail is heavy, in deviations, and how many times the fall of q's
#: own log density it has there.
_FAR, _HEAVY = 6.0, 250.0

#: Places along a coordinate, as parts of the farthest: equally spaced, so that third differences of the
#: exponential have the ratio exp(rate spacing), and of a quadratic are zero.
_PARTS = np.linspace(0.0, 1.0, 5)

#: Rates for each deviation of q: lower ones do no harm, and floats hold no mean of higher ones. The least
#: share of the fall at the last place.
_LEAST, _MOST, _PART = 1.0, 24.0, 0.3

#: The mean is made where draws are moved by the rate: so much farther the exponential must go on.
_BEYOND = 2.0

#: It may differ by this share at two places of the other coordinates, and beyond; how well one is known. (One
#: that is off by 0.04, as in eight schools, would make a larger error than draws alone.)
_SAME, _EXACT = 1e-3, 1e-6

#: First word of the seed of these.
_SEED = 20240305


class Exponentials(NamedTuple):
    """Σ_k sizes_k exp(slopes_k'e) of a standard normal e, whose mean is Σ_k sizes_k exp(|slopes_k|² / 2)."""

    slopes: Array  #: (K, D)
    sizes: Array  #: (K,)
    doubts: Array  #: (K,), as shares, how far the log joint may differ from each

    def at(self, draws: Array) -> Array:
        """Its values at draws (..., D)."""
        with np.errstate(over="ignore"):
            values: Array = np.exp(draws @ self.slopes.T) @ self.sizes
        return values

    @property
    def mean(self) -> float:
        """Its expectation."""
        return float(self._means.sum())

    @property
    def error(self) -> float:
        """How far the mean of the log joint's own may differ."""
        return float(self.doubts @ np.abs(self._means))

    @property
    def _means(self) -> Array:
        means: Array = self.sizes * np.exp(0.5 * (self.slopes * self.slopes).sum(axis=1))
        return means


@np.errstate(over="ignore", invalid="ignore")
def exponentials_in(model: Model, mean: Array, factor: Array) -> tuple[Exponentials, int]:
    """(what the log joint has of these along latent coordinates, as q's draws see it; evaluations)."""
    dim = mean.size
    found = Exponentials(np.empty((0, dim)), np.empty(0), np.empty(0))
    units = factor / np.sqrt((factor * factor).sum(axis=1))[:, None]
    signs = _signs(dim)
    aside = signs[:dim] - (signs[:dim] * units).sum(axis=1)[:, None] * units

    def rest(draws: Array) -> Array:
        points = mean + draws.reshape(-1, dim) @ factor.T
        return densities_or_zero(model, points).reshape(draws.shape[:-1]) - found.at(draws)

    ends = _FAR * units + aside
    values = rest(np.concatenate([ends, -ends, np.zeros((1, dim))]))
    falls, used = values[-1] - values[:-1], values.size
    heavy = np.flatnonzero((falls > _HEAVY * 0.5 * (_FAR * _FAR + dim)) & (falls < math.inf))
    # The steepest first: what falls along several coordinates is taken for one of them.
    for k in heavy[np.argsort(-falls[heavy], kind="stable")].tolist():
        unit = units[k % dim] * (1.0 if k < dim else -1.0)
        one, far = _Exponential(), _FAR
        # On another line as well, on which the others stand elsewhere, and which goes on beyond its mean.
        for beside in signs[k % dim], signs[k % dim + 1]:
            both = np.stack([beside, -beside])
            both -= (both @ unit)[:, None] * unit
            near, one = one, _exponential(rest(far * _PARTS[:, None] * unit + both[:, None]), far)
            far = max(far, one.rate + _BEYOND)
            used += 2 * _PARTS.size
            if one.doubt > _SAME:
                break
        doubt = max(one.doubt, near.doubt, abs(one.log_mean - near.log_mean))
        if doubt <= _SAME:
            new = one.rate * unit, one.size, max(doubt, _EXACT)
            found = Exponentials(*(np.append(x, [y], axis=0) for x, y in zip(found, new, strict=True)))
    return found, used


@lru_cache(maxsize=8)
def _signs(dim: int) -> Array:
    """Where the other coordinates stand, one deviation off: there a tail is seen that depends on them."""
    return np.where(np.random.default_rng((_SEED, dim)).random((dim + 1, dim)) < 0.5, -1.0, 1.0)


class _Exponential(NamedTuple):
    """size exp(rate x) along a line."""

    rate: float = 0.0
    size: float = -1.0
    doubt: float = math.inf  #: how far the log joint may differ from it, as a share

    @property
    def log_mean(self) -> float:
        """The logarithm of what it has in the mean."""
        return math.log(-self.size) + 0.5 * self.rate**2


def _exponential(values: Array, far: float) -> _Exponential:
    """The exponential beside a quadratic, by values (2, 5) on two parallel lines, from 0 to `far`."""
    thirds = np.diff(values, n=3)
    if not np.isfinite(thirds).all():
        return _Exponential()
    low, high = thirds.mean(axis=0).tolist()
    if not 0.0 > low > high:
        return _Exponential()
    ratio = high / low
    rate, size = math.log(ratio) / (far * _PARTS.item(1)), low / (ratio - 1.0) ** 3
    fall = float(values[:, 0].mean() - values[:, -1].mean())
    if rate < _LEAST or rate > _MOST or -size * ratio**4 < _PART * fall:
        return _Exponential()
    one, other = thirds[:, 1].tolist()
    return _Exponential(rate, size, abs(one - other) / abs(one + other))
