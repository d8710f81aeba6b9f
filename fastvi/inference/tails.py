"""Log joints that fall exponentially in some directions, as that of a Gamma does in log z.

A few draws far out make their average: for Gamma(0.1) half of it lies where one draw in 1,000 is, and of ten
stated errors one was four times too small. What is found here has a known expectation, and is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..common.values import Array
from .kernel_calls import densities_or_zero
from .model import Model

#: How far from q's mean the log joint tells whether a tail is heavy, in deviations, and how many times the
#: fall of q's own log density it has there. Functions of arrays in Python may warn so far out.
_FAR, _FAR_IF_EXPENSIVE, _HEAVY = 30.0, 6.0, 250.0

#: A fall of so many times that of q's own is steep.
_STEEP = 4.0

#: Where the log joint is no float there, the distance is halved up to so many times.
_HALVINGS = 3

#: An exponential is alone where the logarithm of the fall is so large: others are below its rounding. Never
#: farther than this factor.
_ALONE, _FARTHER = 200.0, 8.0

#: Then that logarithm is linear: from its value and slope at one place follow those at others, so nearly.
_LINEAR = 1e-7

#: Where its logarithm is so near to that of what is known, nothing else is as large; slopes that are one.
_KNOWN, _SAME = 1e-2, 1e-3

#: Where two of them are as large, the direction is moved towards one, so many times.
_ROTATIONS = 3

#: Rates for each deviation of q: lower ones do no harm, and floats hold no mean of higher ones.
_LEAST, _MOST = 1.0, 36.0

#: The mean is made where draws are moved by the rate. Beyond, at these places on lines in its direction, the
#: third difference of what is left may be so much of that of the exponential. Logarithms that are floats.
_BEYOND, _LEFT, _LARGEST = np.array([-1.0, 0.0, 1.0, 2.0]), 0.05, 600.0

#: How well one is known.
_EXACT = 1e-6

#: Tails in a row that are no such exponentials, or too slow, end the search. Rounds with other directions.
_IN_VAIN, _ROUNDS = 3, 4

#: First word of the seed of these.
_SEED = 20240305

#: Distances from q's mean, in deviations, at which the log joint is compared with a quadratic: few draws are
#: there. Of a hinge that begins 3 of them away the mean is such a share of the difference.
_ASIDE, _SHARE_OF_HINGE = (2.0, 4.0), 3e-4

#: Steep directions in which that is done, at most.
_MOST_STEEP = 2

#: Distance of the second points of a test whether the logarithm of a fall is linear, as a share of the first.
_NEARER = 0.75

#: Logarithms of falls from q's mean, at points in q's coordinates.
LogFalls = Callable[[Array], Array]


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


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def exponentials_in(model: Model, mean: Array, factor: Array) -> tuple[Exponentials, Array, int]:
    """(what the log joint has of these, as q's draws see it; directions (S, D) of steep falls; evaluations).

    Far out in a direction the steepest of them is all there is: there the logarithm of the fall is linear,
    and d + 1 values have its slope and size.
    """
    dim, used = mean.size, 0
    slopes, sizes = np.empty((0, dim)), np.empty(0)

    def logarithms(values: Array) -> Array:
        falls = top - values
        return np.where(falls > 0.0, np.log(falls), -np.inf)

    def log_falls(points: Array) -> Array:
        nonlocal used
        used += len(points)
        return logarithms(densities_or_zero(model, mean + points @ factor.T))

    far, rng = _FAR_IF_EXPENSIVE if model._calls_are_expensive else _FAR, None
    units = directions_of(factor)
    points = far * np.concatenate([units, -units])
    # One call for q's mean and these.
    values = densities_or_zero(model, np.concatenate([mean[None], mean + points @ factor.T]))
    top, used = float(values[0]), len(points)
    heights = _nearer(log_falls, points, logarithms(values[1:]))
    above = (heights - _own(points)).reshape(2, dim).max(axis=0)
    steepest = np.argsort(-above, kind="stable")[:_MOST_STEEP]
    steep = units[steepest[above[steepest] > math.log(_STEEP)]]
    for _ in range(_ROUNDS):
        heavy = (heights > _own(points) + math.log(_HEAVY)) & (heights < math.inf)
        points, heights = points[heavy], heights[heavy]
        before, in_vain = len(sizes), 0
        for k in np.argsort(-heights, kind="stable").tolist():
            if in_vain == _IN_VAIN:
                break
            if len(sizes) and np.logaddexp.reduce(slopes @ points[k] + np.log(-sizes)) >= heights[k] - _KNOWN:
                continue
            slope, size = _exponential(log_falls, points[k], heights.item(k))
            rate = float(np.linalg.norm(slope))
            is_new = (np.linalg.norm(slopes - slope, axis=1) > _SAME * rate).all()
            if is_new and _LEAST <= rate <= _MOST:
                slopes, sizes, in_vain = np.append(slopes, [slope], axis=0), np.append(sizes, size), 0
            else:
                in_vain += 1
        if len(sizes) == before:
            break
        # Where it is steepest another may be steeper; the others are in other directions.
        rng = rng or np.random.default_rng((_SEED, dim))  # 15 µs that most calls do not need
        units = np.concatenate([slopes[before:], rng.standard_normal((4 * dim, dim))])
        units /= np.sqrt((units * units).sum(axis=1))[:, None]
        points = far * np.concatenate([units, -units])
        heights = _nearer(log_falls, points, log_falls(points))
    doubts = _doubts(model, mean, factor, Exponentials(slopes, sizes, np.empty(0)))
    used += 1 + 8 * doubts.size
    chosen = doubts <= _LEFT
    return Exponentials(slopes[chosen], sizes[chosen], np.maximum(doubts[chosen], _EXACT)), steep, used


def _nearer(log_falls: LogFalls, points: Array, heights: Array) -> Array:
    """Logarithms of the falls at points, which are moved nearer where those are not finite."""
    for _ in range(_HALVINGS):
        beyond = np.flatnonzero(heights == np.inf)
        if not beyond.size:
            break
        points[beyond] *= 0.5
        heights[beyond] = log_falls(points[beyond])
    return heights


def _own(points: Array) -> Array:
    """Logarithms of the falls of q's own log density."""
    falls: Array = np.log(0.5 * (points * points).sum(axis=1))
    return falls


def _exponential(log_falls: LogFalls, point: Array, height: float) -> tuple[Array, float]:
    """(slope, size) of the one that is the largest in the direction of a point; slope 0 where it is none."""
    dim, signs = point.size, _signs(point.size)
    none = np.zeros(dim), 0.0
    for _ in range(_ROTATIONS):
        if not 1.0 < height < math.inf:
            break
        point = point * min(_ALONE / height, _FARTHER)
        places = np.concatenate([point[None], point + np.eye(dim), _NEARER * point + signs])
        logs = log_falls(places)
        slope = logs[1 : dim + 1] - logs[0]
        log_size = float(logs[0] - slope @ point)
        if (np.abs(places @ slope + log_size - logs) <= _LINEAR).all():
            return slope, -math.exp(log_size)
        rate, length = float(np.linalg.norm(slope)), float(np.linalg.norm(point))
        if not _LEAST < rate < math.inf:
            break
        point = point / length + slope / rate
        point *= length / np.linalg.norm(point)
        height = log_falls(point[None]).item()
    return none


def _doubts(model: Model, mean: Array, factor: Array, found: Exponentials) -> Array:
    """How far the log joint may differ from each where its mean is made, as shares, by 8 values."""
    doubts, signs = np.empty(found.sizes.size), _signs(mean.size)
    for k, slope in enumerate(found.slopes):
        rate = float(np.linalg.norm(slope))
        unit = slope / rate
        aside = signs - (signs @ unit)[:, None] * unit
        places = min(rate, _LARGEST / rate - _BEYOND[-1]) + _BEYOND
        draws = places[:, None] * unit + aside[:, None]
        values = densities_or_zero(model, mean + draws.reshape(-1, mean.size) @ factor.T)
        left = values.reshape(len(aside), -1) - found.at(draws)
        own = found.sizes[k] * np.exp(rate * places)
        doubt = float(np.abs(np.diff(left, n=3)).max() / abs(np.diff(own, n=3).item()))
        doubts[k] = doubt if doubt >= 0.0 else math.inf
    return doubts


@np.errstate(over="ignore", invalid="ignore")
def beside_quadratics(
    model: Model, mean: Array, factor: Array, known: Exponentials | None, units: Array
) -> tuple[float, int]:
    """(What E[log joint] may have in these directions that few draws see, in nats; evaluations)."""
    draws = np.concatenate([units, -units])
    draws = np.concatenate([np.zeros((1, mean.size)), *(aside * draws for aside in _ASIDE)])
    values = densities_or_zero(model, mean + draws @ factor.T) - (known.at(draws) if known else 0.0)
    near, far = (values[1:] - values[0]).reshape(2, 2, -1).sum(axis=1)
    beside = np.abs(far - (_ASIDE[1] / _ASIDE[0]) ** 2 * near)
    return _SHARE_OF_HINGE * float(beside[beside < math.inf].sum()), len(draws)


@np.errstate(over="ignore", invalid="ignore")
def directions_of(factor: Array) -> Array:
    """Those of the latent coordinates, (D, D), in q's."""
    units: Array = factor / np.sqrt((factor * factor).sum(axis=1))[:, None]
    return units


@lru_cache(maxsize=8)
def _signs(dim: int) -> Array:
    """Where the other coordinates stand, one deviation off: there a tail is seen that depends on them."""
    half = np.where(np.random.default_rng((_SEED, dim)).random((1, dim)) < 0.5, -1.0, 1.0)
    return np.concatenate([half, -half])
