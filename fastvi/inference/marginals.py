"""Laplace's log marginal density of one coordinate, far from q, where no straight line shows it.

With the prior 1 / tau of the deviation of groups a hierarchy is improper by a logarithm: the marginal density
of log tau does not fall where tau goes to zero and the groups draw together. With the groups held at their
places the joint falls off as it should.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..common.values import Array
from ..distributions.gaussian import Gaussian
from .kernel_calls import densities_or_zero, slopes_at
from .model import Model

#: Nats by which a density rises again. Gaussians there, from which a fit may start, have at most this
#: deviation, or a narrower one.
RISE, _WIDEST, _NARROWER = 0.3, 1.0, (1.0, 0.1)

#: Not farther where it falls by more nats for each unit: a coordinate on which nothing depends, as the
#: deviation of standard effects that are 0, has the slope of its prior.
_STEEP = 10.0

#: Newton steps to the first mode of the others, near by, far out, and from one to the next.
_FEW_STEPS, _STEPS, MORE_STEPS = 5, 10, 16

#: Shares of a Newton step that are tried. Where the precision is not definite one has this length, which far
#: from the mode may be short.
_SHARES, _LONGEST = 4.0 ** -np.arange(8), 3.0
_LONGER_SHARES = np.append(4.0 ** np.arange(4, 0, -1), _SHARES)

#: Second derivatives in a unit that is near to the deviations; those by which a step changes the unit.
_LEAST_BEND, _MOST_BEND, _FLATTEST, _STEEPEST = 0.05, 25.0, 1e-4, 1e12

#: Differences of gradients and of values, in conditional deviations: so wide that rounding is small in them.
_STEP, _ASIDE = 0.1, 0.3

#: Gradients are differenced to one side, and to both where a precision may not be definite for it: standard
#: effects and their mean are on a ridge, with an eigenvalue of -6e-5 by one side and 1.7e-4 by both.
_AHEAD, _BOTH, _SKEW = np.array([_STEP]), np.array([_STEP, -_STEP]), 1e-2

#: Nats by which a Newton step to a mode that is only roughly wanted may gain more or less than it promised.
_ROUGHLY = 0.1

#: Squares of the step that is left, in deviations: by gradients, in which ridges are rounded, and by values.
_NEAR, _NEAR_ON_RIDGES, _AT = 1e-4, 1.0, 1e-6

#: Eigenvalues of a precision with a diagonal of ones, below which their direction is a ridge: the length of
#: one is rounded, and is found by values, which change it by so much, in so many rounds.
_RIDGE, _LEAST, _LONGER, _ROUNDS = 1e-6, 1e-11, 1e6, 8

#: How far rounding of the coordinates may turn the end of a ridge away, in deviations. How far the second
#: derivative in one more direction may be from that of the precision.
_ASKEW, _UNEVEN = 5e-2, 0.2

#: A place before one is found: (density, Gaussians there).
_NOWHERE: tuple[float, list[Gaussian]] = -math.inf, []


class Marginal:
    """Laplace's log marginal density of coordinate k, and how many evaluations it took."""

    def __init__(self, model: Model, mean: Array, deviations: Array, k: int) -> None:
        self.model, self.k, self.deviation = model, k, deviations[k]
        self.steps, self.evaluations = _STEPS, 0
        self.others = np.delete(np.arange(mean.size), k)
        self.mean, self.unit = self.first = mean[self.others], deviations[self.others]
        self.modes: list[tuple[float, Array]] = []  # (place, mode of the others) of the last two
        self.highest = self.peak = _NOWHERE  # (density, Gaussians there); the same where it rises again
        self.last = math.nan, math.inf  # (place, density) before
        self.slope = math.nan  # of the density, away from q

    def note(self, density: float, place: float, unit: Array) -> None:
        """Note Gaussians around the mode of the others, where another fit may start."""
        mean, widest = self.points(place, self.mean[None])[0], min(self.deviation, _WIDEST)
        factors = (np.diag(np.insert(unit, self.k, share * widest)) for share in _NARROWER)
        there = [Gaussian._from_factor(mean, factor) for factor in factors]
        if density > self.highest[0]:
            self.highest = density, there
        last, before = self.last
        if density > before + RISE:
            self.peak = density, there
        self.last, self.slope = (place, density), (density - before) / abs(place - last)

    def along(self, places: Array) -> Iterator[float]:
        """The density at each, from the mode of the others at the one before, as long as one is found."""
        for place in places.tolist():
            value = self.at(place)
            if value is None:
                return
            yield value

    def look_for_peaks(self, places: Array) -> None:
        """Note the density at each, roughly, as long as it is found and does not fall steeply."""
        self.steps = _FEW_STEPS  # of 43 coordinates a search in vain takes 50 evaluations a step
        for place in places.tolist():
            if self.at(place, is_rough=True) is None or self.slope < -_STEEP:
                return

    def at(self, place: float, is_rough: bool = False) -> float | None:
        """The density where the coordinate is held, by Newton's method for the others.

        A rough one is by the last second derivatives, without more evaluations.
        """
        mean, unit, sides = self.start(place), self.unit, _AHEAD
        for _ in range(self.steps):
            value, gradient, precision = self.bends(place, mean, unit, sides)
            if not np.isfinite(precision).all():
                unit = 0.1 * unit  # the log joint fails so near
                continue
            diagonal = precision.diagonal()
            ratio = 1.0 / np.sqrt(np.clip(np.abs(diagonal), _FLATTEST, _STEEPEST))
            unit = unit * ratio
            eigenvalues, axes = np.linalg.eigh(precision * ratio * ratio[:, None])
            lengths = 1.0 / np.sqrt(np.maximum(np.abs(eigenvalues), _LEAST))
            axes = unit[:, None] * axes * lengths
            along = (gradient * ratio / unit) @ axes
            is_definite, is_ridge = eigenvalues[0] > -_RIDGE, eigenvalues < _RIDGE
            if -_SKEW < eigenvalues[0] <= -_RIDGE:
                sides = _BOTH
            is_near = diagonal.min() > _LEAST_BEND and diagonal.max() < _MOST_BEND
            left = along * along
            size = float(np.log(unit).sum() + np.log(lengths).sum())
            if is_near and is_definite and left[~is_ridge].sum() < _NEAR and left.sum() < _NEAR_ON_RIDGES:
                self.arrive(place, mean, unit)
                ridges = np.flatnonzero(is_ridge)
                density = value + size if is_rough else self.laplace(place, axes, ridges, size)
                if density is not None:
                    self.note(density, place, unit)
                return density
            shares = _SHARES
            if not is_definite:
                along *= _LONGEST / max(_LONGEST, float(np.linalg.norm(along)))
                shares = _LONGER_SHARES
            means = mean + np.outer(shares, axes @ along)
            values = densities_or_zero(self.model, self.points(place, means))
            self.evaluations += len(values)
            # The longest of those that are as good as the best.
            best = int(np.argmax(values > values.max() - _AT * (1.0 + abs(value))))
            if not values[best] > value - _AT * (1.0 + abs(value)):
                return None
            mean = means[best]
            is_straight = is_definite and shares[best] == 1.0
            if is_rough and is_straight and abs(values[best] - value - 0.5 * left.sum()) < _ROUGHLY:
                self.arrive(place, mean, unit)
                self.note(values[best] + size, place, unit)
                return float(values[best] + size)
        return None

    def arrive(self, place: float, mean: Array, unit: Array) -> None:
        """Begin the next search at the mode of the others that was found, in a unit near their deviations."""
        self.mean, self.unit, self.modes = mean, unit, [*self.modes[-1:], (place, mean)]
        self.steps = MORE_STEPS

    def at_first(self, place: float) -> float | None:
        """The density at a place near q, of which the first mean and unit were."""
        (self.mean, self.unit), self.modes = self.first, []
        return self.at(place)

    def start(self, place: float) -> Array:
        """A start: the last mode, or where it would be at `place` on a line, if the log joint is higher."""
        if len(self.modes) < 2:
            return self.mean
        (first, mode), (second, last) = self.modes
        ahead = last + (place - second) / (second - first) * (last - mode)
        self.evaluations += 2
        here, there = densities_or_zero(self.model, self.points(place, np.stack([last, ahead])))
        return ahead if there > here else last

    def bends(self, place: float, mean: Array, unit: Array, sides: Array) -> tuple[float, Array, Array]:
        """(value, gradient, minus the second derivatives) of the log joint, in a unit; NaN where it fails."""
        aside = [side * np.diag(unit) for side in sides]
        points = self.points(place, mean + np.concatenate([np.zeros((1, mean.size)), *aside]))
        units = np.ones(points.shape[1])
        units[self.others] = unit
        status, values, slopes = slopes_at(self.model, points, units)
        self.evaluations += len(points) * (1 if self.model._slopes_address else 2 * points.shape[1] + 1)
        slopes = slopes[:, self.others] * unit
        precision = (slopes[0] - slopes[1:]).reshape(len(aside), -1, mean.size) / sides[:, None, None]
        precision = precision.mean(axis=0)
        if status:
            precision[:] = math.nan
        return float(values[0]), slopes[0], 0.5 * (precision + precision.T)

    def laplace(self, place: float, axes: Array, ridges: Any, size: float) -> float | None:
        """Laplace's approximation by values along axes (dim, axes), which are near to deviations.

        `size` is the logarithm of their volume. Along ridges gradients are rounded: in eight schools where
        log tau is -12 one is 1e5 times as long as the deviations, and their lengths come from values alone.
        """
        mean, unit = self.mean, self.unit
        rows, columns = (ridges[part] for part in np.triu_indices(ridges.size, 1))
        signs = np.where(np.arange(mean.size) % 2, 1.0, -1.0) / math.sqrt(mean.size)
        for _ in range(_ROUNDS):
            aside = _ASIDE * axes.T
            across = signs @ aside
            moves = np.concatenate(
                [np.zeros((1, mean.size)), aside, -aside, [across, -across], aside[rows] + aside[columns]]
            )
            values = densities_or_zero(self.model, self.points(place, mean + moves))
            self.evaluations += len(values)
            value, values = values[0], values[1:]
            if value == -math.inf:
                return None
            up, down, (ahead, behind), both = np.split(values, [mean.size, 2 * mean.size, 2 * mean.size + 2])
            bends = (2.0 * value - up - down) / _ASIDE**2
            if not ((bends > _LEAST_BEND) & (bends < _MOST_BEND)).all():
                ratio = 1.0 / np.sqrt(np.clip(bends, 1.0 / _LONGER, _LONGER))
                axes, size = axes * ratio, size + float(np.log(ratio).sum())
                continue
            precision = np.diag(bends)
            mixed = (up[rows] + up[columns] - value - both) / _ASIDE**2
            precision[rows, columns] = precision[columns, rows] = mixed
            try:
                root = np.linalg.cholesky(precision)
            except np.linalg.LinAlgError:
                return None
            step = np.linalg.solve(root, (up - down) / (2.0 * _ASIDE))
            if step @ step < _AT:
                askew = (np.spacing(np.abs(mean)) / unit).max() / _STEP * (np.abs(axes) / unit[:, None]).max()
                uneven = (2.0 * value - ahead - behind) / _ASIDE**2 - signs @ precision @ signs
                is_known = askew < _ASKEW and abs(uneven) < _UNEVEN
                density = value + 0.5 * step @ step + size - np.log(root.diagonal()).sum()
                return float(density) if is_known else None
            mean = mean + axes @ np.linalg.solve(root.T, step)
        return None

    def points(self, place: float, others: Array) -> Array:
        """All coordinates of points where this one is held."""
        points = np.empty((len(others), self.others.size + 1))
        points[:, self.k], points[:, self.others] = place, others
        return points
