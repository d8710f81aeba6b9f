"""What marginal densities show far from q: mass without end along a curve, and other peaks.

A prior whose scale is far from that of the data makes two peaks of the density of a deviation, of which a fit
finds one.
"""

from __future__ import annotations

import math
from itertools import chain, product
from typing import Any, NamedTuple

import numpy as np

from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..kernels.statuses import FINE, UNBOUNDED, UNCONFIRMED
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero, deviations_of
from .logarithms import END, FLAT, LEVEL, logarithms_of, never_falls_around, units_of
from .marginals import MORE_STEPS, RISE, Marginal
from .model import Model
from .racing import elbo_over, error_over

#: Distances from q's mean: a density is asymptotic at the first, and floats end beyond the last.
_DISTANCES = (8.0, 9.5, 11.0, 12.5, 14.0, 16.0, 18.0, 24.0, 48.0, 96.0, 192.0, 384.0)

#: A distance before these, and others on the way to it, where Newton's method does not find the mode of the
#: others at once.
_BEFORE = 4.0
_ON_THE_WAY = (0.0, 0.5, 1.0, 2.0, _BEFORE)

#: What looking for other peaks may take, beyond the first coordinate, as a share of the evaluations allowed,
#: and the distances at which they are looked for: two were 1.5 units apart, of forty groups, and others 14.
_FOR_PEAKS = 0.6
_PEAKS_AT = (1.25, 2.0, 2.75, 3.5, 4.25, 5.0, 6.0, 7.0, 8.0, 9.5, 11.0, 12.5, 14.0, 16.0, 18.0, 20.0)

#: Nats by which the ELBO of a Gaussian at a peak, or at one of a few high places, is higher, and standard
#: errors more, over so many pairs of draws. Where none is, a fit may find one from a peak that is not so much
#: lower: one of twenty groups is 11 nats lower one unit beyond its top.
_FEW, _BETTER, _ERRORS, _PAIRS, _AS_HIGH = 4, 0.5, 2.0, 16, 25.0

#: A density that falls by more than `LEVEL` from one distance to the next is that of a finite mass, unless
#: its slope is less than `_SLOWER` of that before: it may become level. From `_FAR` on by more than `FLAT`.
#: One not known as far may fall beyond, unless it is as flat over the last step, to which it settled, or over
#: all; one that rises there has another peak, or no end. On the way it rises with one slope, to a share.
_FAR, _SLOWER, _STRAIGHT = 24.0, 0.5, 0.02


class Tails(NamedTuple):
    """What is far from q."""

    status: int  #: FINE, or what the posterior is known to be, or may be
    evaluations: int
    rival: Gaussian | None = None  #: of a higher ELBO, so that a fit should start there
    other: Gaussian | None = None  #: where the density rises again, to about as much
    logarithms: tuple[int, ...] | None = None  #: coordinates that seem to be some, if it is known


def tails_along_curves(model: Model, mean: Array, factor: Array, most: float) -> Tails:
    """UNBOUNDED, or UNCONFIRMED, where a log marginal density is level, or rises, far from q.

    FINE says nothing: coordinates are left out where all would take more evaluations than `most`, or where
    the mode of the others is not found or is lost in rounding.
    """
    if mean.size < 2 or most <= 0:
        return Tails(FINE, 0)
    found: int = FINE
    deviations = deviations_of(factor)
    units = units_of(deviations)
    with np.errstate(all="ignore"):
        logarithms, endless, used = logarithms_of(model, mean, factor)
        for k, side in endless:
            is_improper, count = never_falls_around(model, mean, deviations, k, side * units[k])
            used += count
            if is_improper:
                return Tails(UNBOUNDED, used)
        # Those of which the mode is not found far out, after all others: of some there is none. Scales go to
        # 0 rather than to infinity.
        first = [(_on_one_side, k, side) for side, k in product((-1.0, 1.0), logarithms)]
        second, third = list[Any](), list[Any]()
        seen = list[Marginal]()
        for look, k, side in chain(first, second, third):
            if used >= most:
                break
            marginal = Marginal(model, mean, deviations, k)
            status = look(marginal, mean[k], side * units[k])
            used += marginal.evaluations
            if status == UNBOUNDED:
                return Tails(UNBOUNDED, used)
            if status is None:
                (second if marginal.modes else third).append((_step_by_step, k, side))
            else:
                seen.append(marginal)
            found = status or found
        rival, other, count = _peaks_along(model, mean, factor, logarithms, seen, most)
    return Tails(found, used + count, rival, other, tuple(logarithms))


def _peaks_along(
    model: Model, mean: Array, factor: Array, logarithms: list[int], seen: list[Marginal], most: float
) -> tuple[Gaussian | None, Gaussian | None, int]:
    """(A Gaussian with a higher ELBO, one at another peak that is not much lower, evaluations)."""
    deviations = deviations_of(factor)
    units, used = units_of(deviations), 0
    looked = list(seen)
    for k in logarithms:
        if used >= _FOR_PEAKS * most:
            break
        for side in (-1.0, 1.0):
            marginal = Marginal(model, mean, deviations, k)
            marginal.look_for_peaks(mean[k] + side * units[k] * np.array(_PEAKS_AT))
            used += marginal.evaluations
            looked.append(marginal)
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
    elbo, values, _ = elbo_over(model, q._mean, q._factor, noise)
    best, most = None, _BETTER
    for other in others:
        its_elbo, its_values, _ = elbo_over(model, other._mean, other._factor, noise)
        # As much as the draws show, which are the same.
        more = its_elbo - elbo - _ERRORS * error_over(its_values - values)
        if more > most:
            best, most = other, more
    return best, (1 + len(others)) * len(noise)


def _step_by_step(marginal: Marginal, start: float, unit: float) -> int | None:
    """As `_far_out`, with modes on the way, from which the next follow."""
    status: int | None = FINE
    marginal.steps = MORE_STEPS
    near = list(marginal.along(start + unit * np.array(_ON_THE_WAY)))
    if len(near) < 3:
        return status
    before, slope = (np.diff(near) / np.diff(_ON_THE_WAY[: len(near)]))[-2:].tolist()
    if slope < min(_SLOWER * before, -RISE):  # it falls, and not less and less
        return status
    place = start + unit * _ON_THE_WAY[len(near) - 1]
    status = _far_out(marginal, start, unit, near[-1]) if len(near) == len(_ON_THE_WAY) else None
    if status is None:
        is_straight = min(before, slope) >= RISE and abs(slope - before) <= _STRAIGHT * slope
        may_exceed = is_straight and near[-1] + slope * _to_the_end(place, unit) > near[0]
        status = UNCONFIRMED if may_exceed else FINE
    return status


def _on_one_side(marginal: Marginal, start: float, unit: float) -> int | None:
    """As `_far_out`, where the mode is found before."""
    near = marginal.at(start + unit * _BEFORE)
    return None if near is None else _far_out(marginal, start, unit, near)


def _far_out(marginal: Marginal, start: float, unit: float, near: float) -> int | None:
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
        if fall > (LEVEL if _DISTANCES[k] < _FAR else FLAT) and not slope > _SLOWER * before:
            return status
    # Not at the top of a peak: there one flat step follows others that are not, and do not become so.
    is_settled = abs(fall) <= FLAT and (abs(fell) <= FLAT or abs(before) <= _SLOWER * abs(earlier))
    is_level = reached > 0 and (is_settled or highest - lowest <= FLAT)
    if is_level or (_DISTANCES[reached] >= _FAR and fall <= FLAT):
        status = UNBOUNDED
    elif fall <= -RISE:
        density = marginal.at_first(start)
        if density is None or last + slope * _to_the_end(float(places[reached]), unit) > density:
            status = UNCONFIRMED
    return status


def _to_the_end(place: float, unit: float) -> float:
    """The distance from a coordinate to where floats end, in units."""
    return (END - abs(place)) / abs(unit)
