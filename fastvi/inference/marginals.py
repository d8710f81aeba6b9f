"""Laplace's log marginal density of one coordinate, far from q: mass without end along a curve, other peaks.

With the prior 1 / tau of the deviation of groups a hierarchy is improper by a logarithm: the marginal density
of log tau does not fall where tau goes to zero and the groups draw together. No straight line shows it: with
the groups held at their places the joint falls off as it should. And a prior whose scale is far from that of
the data makes two peaks of it, of which a fit finds one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..kernels.statuses import FINE, UNBOUNDED, UNCONFIRMED
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero, deviations_of, slopes_at
from .model import Model

#: Distances from q's mean, in a unit of at least 1, as the coordinate is a logarithm: a density is asymptotic
#: at the first, and floats end beyond the last. The unit is a third of q's deviation if that is more.
_DISTANCES, _UNIT = (8.0, 9.5, 11.0, 12.5, 14.0, 16.0, 18.0, 24.0, 48.0, 96.0, 192.0, 384.0), 1 / 3

#: A distance before, those beyond where it falls at which other peaks are looked for, and the largest
#: deviation of a Gaussian from which a fit then starts.
_BEFORE, _BEYOND, _WIDEST = 4.0, (12.0, 14.0, 16.0, 18.0, 20.0), 1.0

#: Nats by which the ELBO of a Gaussian at a peak that is not higher, or near by, is higher, and standard
#: errors more, over so many pairs of draws.
#: The coordinate's deviation is q's or narrower. Where none is, a fit may find one from a place at which the
#: density is not so much lower: a peak of twenty groups is 11 nats lower one unit beyond its top.
_BETTER, _ERRORS, _PAIRS, _NARROWER, _AS_HIGH = 0.5, 2.0, 16, (1.0, 0.1), 25.0

#: Not farther where it falls by more nats for each unit: a coordinate on which nothing depends, as the
#: deviation of standard effects that are 0, has the slope of its prior.
_STEEP = 10.0

#: So many of the highest places that are on no peak.
_FEW = 4

#: What all and other peaks may take, as a share of the evaluations allowed.
_FOR_PEAKS = 2.0

#: Distances near by at which another q may be better, along scales (two were, of forty groups), and what
#: looking there may take, as a share of the evaluations allowed.
_NEAR_BY, _FOR_NEAR_BY = (1.25, 2.0, 2.75, 3.5, 4.25, 5.0, 6.0, 7.0), 0.5

#: Distances on the way to the first, where Newton's method does not find the mode of the others at once.
_ON_THE_WAY = (0.0, 0.5, 1.0, 2.0, _BEFORE)

#: A density that falls by more nats from one distance to the next is that of a finite mass, unless its slope
#: is less than `_SLOWER` times that before: it may become level. From `_FAR` on by more than `_FLAT`. One not
#: known as far may fall beyond, unless it is as flat over the last step, to which it settled, or over all;
#: one that rises there has another peak, or no end. On the way it rises with one slope, to a share.
_LEVEL, _FLAT, _RISE, _FAR, _SLOWER, _STRAIGHT = 0.02, 1e-3, 0.3, 24.0, 0.5, 0.02

#: Distances, with the other coordinates at q's mean, that tell which coordinates are logarithms: on one side
#: the joint falls by a power of what they are the logarithm of, on the other by an exponential. How far the
#: falls over equal distances may differ, as a share and in nats; where the prior is lognormal they differ by
#: more. Of rates the exponent is 1, of scales 2.
#: Of coordinates on the real line only those are looked at on whose two sides the joint differs by a factor.
_PROBES, _SHARE, _NATS, _RATE, _SCALE, _UNLIKE = np.array([24.0, 36.0, 48.0]), 0.2, 0.5, 0.5, 2.0, 10.0
_LOGNORMAL, _NEARLY_SCALE = 1.5, 1.5

#: How far in q's deviations beside its mean.
_BESIDE = 0.5

#: The logarithm of the least float: no coordinate is followed farther, and by values alone not so near to it.
_END, _RESERVE = 744.0, 64.0

#: Errors of rounding, in units of the level that they may hide.
_ROUNDED = 1e-3

#: Distances over which a joint that does not fall by itself goes on so, and deviations to points around q.
_LEVEL_AT, _AROUND = np.array([24.0, 48.0, 96.0, 192.0, 384.0]), 0.5

#: Newton steps to the first mode of the others, and from one to the next, or to the first on the way.
_STEPS, _MORE_STEPS = 10, 16

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


class Tails(NamedTuple):
    """What is far from q."""

    status: int  #: FINE, or what the posterior is known to be, or may be
    evaluations: int
    rival: Gaussian | None = None  #: where the density, or the ELBO, is so high that a fit should start there
    other: Gaussian | None = None  #: where the density rises again, to about as much


def tails_along_curves(model: Model, mean: Array, factor: Array, most: float) -> Tails:
    """UNBOUNDED, or UNCONFIRMED, where a log marginal density is level, or rises, far from q.

    FINE says nothing: coordinates are left out where all would take more evaluations than `most`, or where
    the mode of the others is not found or is lost in rounding.
    """
    if mean.size < 2 or most <= 0:
        return Tails(FINE, 0)
    found: int = FINE
    deviations = deviations_of(factor)
    units = _units(deviations)
    with np.errstate(all="ignore"):
        endless, logarithms, scales, used = logarithms_of(model, mean, factor)
        for k, side in endless:
            used += (2 * mean.size + 1) * _LEVEL_AT.size
            if _never_falls_around(model, mean, deviations, k, side * units[k]):
                return Tails(UNBOUNDED, used)
        # Those of which the mode is not found far out, after all others: of some there is none. Scales go to
        # 0 rather than to infinity.
        first = [(_on_one_side, k, side) for side, k in product((-1.0, 1.0), logarithms)]
        second, third = list[Any](), list[Any]()
        near, used_near = list[_Marginal](), 0
        for side, k in product((-1.0, 1.0), scales):
            if used_near < _FOR_NEAR_BY * most:
                near.append(_Marginal(model, mean, deviations, k))
                near[-1].along_while_flat(mean[k] + side * units[k] * np.array(_NEAR_BY))
                used_near += near[-1].evaluations
        seen: list[tuple[_Marginal, float]] = []
        for look, k, side in chain(first, second, third):
            if used >= most:
                break
            marginal = _Marginal(model, mean, deviations, k)
            status = look(marginal, mean[k], side * units[k])
            used += marginal.evaluations
            if status == UNBOUNDED:
                return Tails(UNBOUNDED, used + used_near)
            if status is None:
                (second if marginal.modes else third).append((_step_by_step, k, side))
            elif marginal.modes:
                seen.append((marginal, side * units[k]))
            found = status or found
        rival, other, count = _peaks_among(model, mean, factor, near, seen, _FOR_PEAKS * most - used)
    return Tails(found, used + used_near + count, rival, other)


def _peaks_among(
    model: Model,
    mean: Array,
    factor: Array,
    near: list[_Marginal],
    seen: list[tuple[_Marginal, float]],
    most: float,
) -> tuple[Gaussian | None, Gaussian | None, int]:
    """(A Gaussian with a higher ELBO, one at another peak that is not much lower, evaluations)."""
    used = 0
    for marginal, unit in seen:
        before = marginal.evaluations
        if used < most:
            marginal.along_while_flat(mean[marginal.k] + unit * np.array(_BEYOND))
        used += marginal.evaluations - before
    looked = [*near, *(marginal for marginal, _ in seen)]
    peaks = [marginal for marginal in looked if marginal.peak[1]]
    highest = sorted((marginal.highest for marginal in looked if marginal.highest[1]), key=lambda x: -x[0])
    others = [there for marginal in peaks for there in marginal.peak[1]]
    others += [gaussians[0] for _, gaussians in highest[:_FEW]]
    if not others:
        return None, None, used
    rival, count = _best_of(model, Gaussian._from_factor(mean, factor), others)
    if not peaks:
        return rival, None, used + count
    marginal = max(peaks, key=lambda marginal: marginal.peak[0])
    density, gaussians = marginal.peak
    # That of a q with this factor at its mean, which the density there is not below.
    volume = float(np.log(factor.diagonal()).sum()) - math.log(marginal.deviation)
    lowest = float(densities_or_zero(model, mean[None])[0]) + volume
    return rival, gaussians[-1] if density > lowest - _AS_HIGH else None, used + count + 1


def _best_of(model: Model, q: Gaussian, others: list[Gaussian]) -> tuple[Gaussian | None, int]:
    """(That with the highest ELBO over a few draws, if it is higher than q's; evaluations).

    Laplace's density does not know what a q of the family leaves out.
    """
    noise = writable(fixed_draws(2, _PAIRS, q.dim))
    points = [g._mean + g._spread(noise) for g in (q, *others)]
    values = densities_or_zero(model, np.concatenate(points)).reshape(len(points), 2, _PAIRS).mean(axis=1)
    values += np.array([g.entropy() for g in (q, *others)])[:, None]
    gains = values[1:] - values[0]
    # As much as the draws show.
    shown = np.nan_to_num(gains.mean(axis=1) - _ERRORS * gains.std(axis=1) / math.sqrt(_PAIRS), nan=-math.inf)
    best = int(np.argmax(shown))
    return (others[best] if shown[best] > _BETTER else None), len(points) * len(noise)


def _step_by_step(marginal: _Marginal, start: float, unit: float) -> int | None:
    """As `_far_out`, with modes on the way, from which the next follow."""
    status: int | None = FINE
    marginal.steps = _MORE_STEPS
    near = list(marginal.along(start + unit * np.array(_ON_THE_WAY)))
    if len(near) < 3:
        return status
    before, slope = (np.diff(near) / np.diff(_ON_THE_WAY[: len(near)]))[-2:].tolist()
    if slope < min(_SLOWER * before, -_RISE):  # it falls, and not less and less
        return status
    place = start + unit * _ON_THE_WAY[len(near) - 1]
    status = _far_out(marginal, start, unit, near[-1]) if len(near) == len(_ON_THE_WAY) else None
    if status is None:
        is_straight = min(before, slope) >= _RISE and abs(slope - before) <= _STRAIGHT * slope
        may_exceed = is_straight and near[-1] + slope * _to_the_end(place, unit) > near[0]
        status = UNCONFIRMED if may_exceed else FINE
    return status


def _on_one_side(marginal: _Marginal, start: float, unit: float) -> int | None:
    """As `_far_out`, where the mode is found before."""
    near = marginal.at(start + unit * _BEFORE)
    return None if near is None else _far_out(marginal, start, unit, near)


def _far_out(marginal: _Marginal, start: float, unit: float, near: float) -> int | None:
    """What follows from a log marginal density on one side of `start`, as far as it is known, or None.

    `near` is that at the distance `_BEFORE`.
    """
    status: int = FINE
    places = start + unit * np.array(_DISTANCES)
    first = marginal.at(places[0])
    if first is None:
        return None
    earlier, before, slope = math.nan, math.nan, (first - near) / (_DISTANCES[0] - _BEFORE)
    last, fell, fall, reached = first, math.nan, near - first, 0
    lowest = highest = first
    for k, value in enumerate(marginal.along(places[1:]), 1):
        earlier, before, slope = before, slope, (value - last) / (_DISTANCES[k] - _DISTANCES[reached])
        last, fell, fall, reached = value, fall, last - value, k
        lowest, highest = min(lowest, value), max(highest, value)
        if fall > (_LEVEL if _DISTANCES[k] < _FAR else _FLAT) and not slope > _SLOWER * before:
            return status
    # Not at the top of a peak: there one flat step follows others that are not, and do not become so.
    is_settled = abs(fall) <= _FLAT and (abs(fell) <= _FLAT or abs(before) <= _SLOWER * abs(earlier))
    is_level = reached > 0 and (is_settled or highest - lowest <= _FLAT)
    if is_level or (_DISTANCES[reached] >= _FAR and fall <= _FLAT):
        status = UNBOUNDED
    elif fall <= -_RISE:
        density = marginal.at_first(start)
        if density is None or last + slope * _to_the_end(float(places[reached]), unit) > density:
            status = UNCONFIRMED
    return status


def _to_the_end(place: float, unit: float) -> float:
    """The distance from a coordinate to where floats end, in units."""
    return (_END - abs(place)) / abs(unit)


def _units(deviations: Array) -> Array:
    """In which distances from q's mean are counted."""
    return np.maximum(_UNIT * deviations, 1.0)


def logarithms_of(
    model: Model, mean: Array, factor: Array
) -> tuple[list[tuple[int, float]], list[int], list[int], int]:
    """Sides on which the joint does not fall, and coordinates that seem to be logarithms.

    First those on which most depends. Also which of these are logarithms of scales, and the evaluations.
    """
    units = _units(deviations_of(factor))
    # Beside q's mean, where standard effects may be 0 and nothing depends on their deviation.
    mean = mean + factor @ np.where(np.arange(mean.size) % 2, -_BESIDE, _BESIDE)
    first = np.concatenate([np.diag(units), -np.diag(units)]) * _PROBES[-1]
    sizes = np.abs(densities_or_zero(model, mean + first)).reshape(2, -1)
    is_bounded = model._support.kinds != kernels.models.kinds.REAL
    chosen = np.flatnonzero(is_bounded | (sizes.max(axis=0) > _UNLIKE * sizes.min(axis=0)))
    is_bounded = is_bounded[chosen]
    moves = np.zeros((2, _PROBES.size, chosen.size, mean.size))  # ahead and behind
    moves[..., range(chosen.size), chosen] = np.outer(_PROBES, units[chosen])
    moves[1] *= -1.0
    values = densities_or_zero(model, mean + moves.reshape(-1, mean.size)).reshape(moves.shape[:3])
    near, far = values[:, 0] - values[:, 1], values[:, 1] - values[:, 2]
    never_falls = is_bounded & (near <= _LEVEL) & (far <= _LEVEL)
    is_level = never_falls & (np.abs(near) <= _LEVEL) & (np.abs(far) <= _LEVEL)
    is_power = np.isfinite(far) & (np.abs(far - near) <= _SHARE * np.abs(near) + _NATS)
    # By the exponent on the other side: 2 of scales, 1 of rates, and 0 where both sides fall by powers.
    exponents = np.nan_to_num(np.log(np.maximum(far, 0.0) / near), nan=math.inf) / (_PROBES[1] - _PROBES[0])
    exponents = np.where(near > 0.0, np.clip(exponents, 0.0, _SCALE), 0.0)[::-1]
    is_twice = is_bounded & is_power.all(axis=0) & (near > 0.0)
    # Standard effects times a scale with an inverse gamma prior: exponentials on both sides.
    is_steep = np.isfinite(far).all(axis=0) & (exponents > _RATE).all(axis=0)
    is_lognormal = np.isfinite(far) & (near > 0.0) & (far - near <= _LOGNORMAL * near)
    is_logarithm = is_level | is_twice | is_steep | (is_power & (exponents > _RATE))
    is_logarithm |= is_lognormal & (exponents > _NEARLY_SCALE)
    # Scales first: groups may be logarithms of rates, and there are many.
    found = [
        (-round(exponents[side, n]), -abs(far[side, n]), int(chosen[n]))
        for side, n in zip(*np.nonzero(is_logarithm), strict=True)
    ]
    endless = [(int(chosen[n]), 1.0 - 2.0 * side) for side, n in zip(*np.nonzero(never_falls), strict=True)]
    logarithms = list(dict.fromkeys(k for *_, k in sorted(found)))
    scales = list(dict.fromkeys(k for exponent, _, k in sorted(found) if exponent == -_SCALE))
    return endless, logarithms, scales, len(first) + values.size


def _never_falls_around(model: Model, mean: Array, deviations: Array, k: int, unit: float) -> bool:
    """Whether the joint is level along coordinate k, or rises, wherever the others are: its mass is infinite.

    Laplace's density may not be known there, or fall. A growth curve whose rate is infinite is a step, with
    as much mass wherever the step is between two data. A horseshoe keeps its coefficients while the common
    scale goes to 0, as their own scales grow, and has more mass far out without coefficients.
    """
    distances = unit * np.minimum(_LEVEL_AT, (_END - _RESERVE - abs(mean[k])) / abs(unit))
    others = _AROUND * np.diag(deviations)
    others[k] = 0.0
    around = mean + np.concatenate([np.zeros((1, mean.size)), others, -others])
    points = np.tile(around, (_LEVEL_AT.size, 1, 1))
    points[..., k] += distances[:, None]
    values = densities_or_zero(model, points.reshape(-1, mean.size)).reshape(points.shape[:2])
    is_exact = np.spacing(np.abs(values)).max() < _ROUNDED * _FLAT
    return bool(is_exact and (values[1:] >= np.maximum.accumulate(values)[:-1] - _FLAT).all())


_NOWHERE: tuple[float, list[Gaussian]] = -math.inf, []


class _Marginal:
    """Laplace's log marginal density of coordinate k, and how many evaluations it took."""

    def __init__(self, model: Model, mean: Array, deviations: Array, k: int, is_scale: bool = False) -> None:
        self.is_scale = is_scale
        self.model, self.k, self.place, self.deviation = model, k, float(mean[k]), deviations[k]
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
        if density > before + _RISE:
            self.peak = density, there
        self.last, self.slope = (place, density), (density - before) / abs(place - last)

    def along(self, places: Array) -> Iterator[float]:
        """The density at each, from the mode of the others at the one before, as long as one is found."""
        for place in places.tolist():
            value = self.at(place)
            if value is None:
                return
            yield value

    def along_while_flat(self, places: Array) -> None:
        """Note the density at each, roughly, until it falls steeply."""
        for place in places.tolist():
            if self.slope < -_STEEP:
                return
            self.at(place, is_rough=True)

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
        self.steps = _MORE_STEPS

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
