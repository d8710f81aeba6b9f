"""A search for another q than that of a fit in many dimensions: has one of them a higher ELBO?

The start of a fit is the best of a race, but all its candidates may come from one of several modes: in a
third of the fits of predator and prey they did, and ended 60 to 80 nats below the best. And its end may be
anywhere on a ridge, where gradients are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..common.values import Array
from ..distributions.gaussian import Gaussian, lower_factor
from ..kernels.families.table import CODES, CORRELATED
from ..kernels.statuses import FINE, UNBOUNDED, UNCONFIRMED
from .expectations import fixed_draws, writable
from .kernel_calls import densities_or_zero, deviations_of, restricted, slopes_at
from .logarithms import logarithms_of, units_of
from .model import Model
from .modes import mode_at
from .racing import elbo_over
from .starts import Laplace, ascent_in_units, is_near, laplace_from, newtons_laplace, points_around

#: Evaluations of the search, as a share of those of the fit. An evaluation of a single point by Python takes
#: as long as so many of a block.
_SHARE, _SINGLE = 0.15, 16

#: Seed of the points around q.
_SEED = 20240304

#: Steps of an ascent, at least and at most, and the gradient that ends it, in q's deviations.
_FEWEST, _STEPS, _TOLERANCE = 10, 100, 0.3

#: Deviations of the points around the origin.
_WIDTHS = (3.0, 10.0)

#: A mode is a rival where Laplace's approximation has so many nats more mass than q (of a sharp peak on a
#: broad one its mass may not be known), and the Gaussian of the family there, before a fit, an ELBO that is
#: at most so many nats lower, over so many pairs of draws.
_MORE, _LOWER, _PAIRS = 0.05, 1.0, 16


#: Differences of gradients, in q's deviations. Eigenvalues of the precision in that unit below which their
#: direction is a ridge, and how many are looked at, the flattest first.
_STEP, _RIDGE, _RIDGES = 0.1, 1e-3, 4

#: Lengths of the moves of single coordinates, nats by which the log joint must be higher there, how much
#: narrower q is tried, and what the moves may take, as a share of the evaluations of the fit, but for so many
#: coordinates that seem to be logarithms.
_LENGTHS, _MORE_AT_A_POINT = (4.0, 8.0, 12.0, 16.0, -4.0, -8.0, -12.0, -16.0), 2.0
_NARROWER, _SHARE_OF_AXES, _FEW_AXES = 10.0 ** -np.arange(5.0), 0.03, 4

#: Distances along a ridge, in q's deviations, and nats by which the ELBO of a rival is higher.
_DISTANCES, _HIGHER = np.outer([1.0, -1.0], 10.0 ** np.arange(9.0)).ravel(), 0.02

#: A ridge whose eigenvalue is less, and along which the log joint falls by more nats within its deviation, is
#: curved: a straight one falls by half a nat.
_NARROW, _FALL = 1e-6, 5.0

#: Distances along a ridge, in q's deviations, at which the log joint of a proper posterior has fallen: as far
#: as a direction is known.
_ENDS = 1e3, 1e6, 1e9, 1e12


class Rival(NamedTuple):
    """Where another fit should start, if anywhere, and what the search cost."""

    start: Gaussian | None
    evaluations: int
    #: UNCONFIRMED where q is on a ridge that could not be followed, UNBOUNDED where the ridge has no end.
    status: int = FINE


def rival_of(model: Model, family: str, q: Gaussian, elbo: float, error: float, spent: float) -> Rival:
    """The mode from which a fit may reach a higher ELBO, after a fit with so many evaluations."""
    used, best, highest, top = 0, None, elbo - _LOWER, elbo + _MORE + 2.0 * error
    own = None  # the mode that q is around
    left, single = _SHARE * spent, _SINGLE if model._calls_python else 1
    seen: list[Gaussian] = []  # modes to which ascents have led
    laplace = _laplace(model)
    for point in _points(q):
        steps = min(int(left / single), _STEPS)
        if steps < _FEWEST:
            break
        path = ascent_in_units(model, q, point, _TOLERANCE, steps)
        used += path.evaluations
        left -= path.evaluations * single
        # In eight schools, from where an ascent is after 100 steps, Newton's method takes 300 evaluations.
        if not path.arrived or any(is_near(path.end, mode) for mode in (q, *seen)):
            continue
        found = laplace(model, path.end)
        used += found.evaluations
        left -= found.evaluations
        if found.status:
            continue
        there = Gaussian._from_factor(found.mean, found.factor)
        seen.append(there)
        mode = mode_at(model, found)
        # A mode on a ridge is many deviations of a diagonal q away, and few of its own.
        if (mode is not None and mode.log_mass <= top) or is_near(found.mean, q) or is_near(q._mean, there):
            continue
        factor = restricted(found.factor, family) if family in CODES else found.factor
        value, _, _ = elbo_over(model, found.mean, factor, writable(fixed_draws(2, _PAIRS, q.dim)))
        used += 2 * _PAIRS
        left -= 2 * _PAIRS
        if value > highest and own is None:
            own = laplace(model, q._mean)
            used += own.evaluations
            left -= own.evaluations
        # Beside a diagonal q of a regression of 41 dimensions its mode was 1.7 deviations from its mean.
        if value > highest and (own is None or own.status or not is_near(own.mean, there)):
            best, highest = Gaussian._from_factor(found.mean, factor), value
    return Rival(best, used)


def along_ridges(model: Model, q: Gaussian, family: str) -> Rival:
    """A q with another mean, farther along directions in which the log joint hardly bends.

    There gradients are small in q's deviations far from the optimum: where groups with an error of 1e5 have
    a deviation of 1, their common mean lacks 0.5 nats with a gradient of 1e-5. A family with correlations
    begins with the curvature, so with the ridges' lengths. A curved one that is narrow cannot be
    followed: twenty standard effects of 1e-5 had the deviation of their prior, 200 nats below.
    """
    with np.errstate(all="ignore"):
        mean, unit = q._mean, deviations_of(q._factor)
        if not np.isfinite([mean, unit]).all():
            return Rival(None, 0)
        aside = _STEP * np.diag(unit)
        status, _, slopes = slopes_at(model, mean + np.concatenate([-aside, aside]), unit)
        used = 2 * q.dim * (1 if model._slopes_address else 2 * q.dim + 1)
        precision = (slopes[: q.dim] - slopes[q.dim :]) * unit / (2.0 * _STEP)
        if status or not np.isfinite(precision).all():
            return Rival(None, used)
        eigenvalues, axes = np.linalg.eigh(0.5 * (precision + precision.T))
        sizes = np.abs(eigenvalues)
        ridges = [k for k in np.argsort(sizes, kind="stable")[:_RIDGES].tolist() if sizes[k] < _RIDGE]
        draws = writable(fixed_draws(2, max(_PAIRS, q.dim), q.dim))
        noise, factor, gain, outcome = q._spread(draws), q._factor, 0.0, FINE
        # If the log joint is the same along v, the gradient everywhere is orthogonal to v; by the symmetric
        # part of the differences, which are at several points, v is known to 1e-3 only.
        _, level, level_axes = np.linalg.svd(precision)
        for axis in level_axes[level < _NARROW]:
            endless, count = _is_endless(model, mean + noise, unit * axis)
            used += count
            if endless:
                return Rival(None, used, UNBOUNDED)
        for k in ridges:
            within = 1.0 / math.sqrt(max(sizes[k], np.finfo(float).tiny))
            step, more, fall, count = _step_along(model, mean + noise, unit * axes[:, k], within)
            mean, gain, used = mean + step, gain + more, used + count
            if sizes[k] < _NARROW and fall > _FALL:
                outcome = UNCONFIRMED
        if ridges and family in CORRELATED and eigenvalues[0] > 0.0:
            factor = unit[:, None] * lower_factor(axes / np.sqrt(eigenvalues))
            (before, *_), (after, *_) = (elbo_over(model, mean, f, draws) for f in (q._factor, factor))
            gain, used = gain + after - before, used + 2 * len(draws)
    return Rival(Gaussian._from_factor(mean, factor) if gain > _HIGHER else None, used, outcome)


def _is_endless(model: Model, draws: Array, direction: Array) -> tuple[bool, int]:
    """Whether the mean log joint falls nowhere along a direction, on one side; and the evaluations.

    Then the posterior is improper, as where the sum of two coefficients is all that the data tell of them.
    """
    distances = np.outer([1.0, -1.0], _ENDS)
    points = draws + np.multiply.outer(np.append(0.0, distances), direction)[:, None]
    values = (
        densities_or_zero(model, points.reshape(-1, direction.size)).reshape(len(points), -1).mean(axis=1)
    )
    level = (values[1:] > values[0] - kernels.inference.confirmation.MARGIN).reshape(distances.shape)
    return bool(level.all(axis=1).any()), values.size * len(draws)


def along_axes(
    model: Model, q: Gaussian, family: str, spent: float, logarithms: Sequence[int] | None = None
) -> Rival:
    """A q, perhaps a narrower one, with another value of one coordinate; the fit took so many evaluations.

    Where the deviation of groups is as small as its prior has it, their standard effects are all but 0, and q
    is on a plateau; with another deviation the same small effects reach the data. Where no q with these
    effects is better, as all of them would have to be narrow, the mode that lies uphill may have one. Where
    all coordinates would take too many evaluations, some of the logarithms are moved.
    """
    axes, used = np.arange(q.dim), 0
    with np.errstate(all="ignore"):
        if len(_LENGTHS) * q.dim > _SHARE_OF_AXES * spent:
            if logarithms is None:
                logarithms, *_, used = logarithms_of(model, q._mean, q._factor)
            axes = np.array(logarithms[:_FEW_AXES], dtype=np.int64)
        if not axes.size:
            return Rival(None, used)
        unit = units_of(deviations_of(q._factor))
        moves = np.concatenate([length * np.diag(unit)[axes] for length in _LENGTHS])
        values = densities_or_zero(model, np.concatenate([q._mean[None], q._mean + moves]))
        best, used = int(np.argmax(values[1:])), used + len(values)
        if not values[1 + best] > values[0] + _MORE_AT_A_POINT:
            return Rival(None, used)
        draws = writable(fixed_draws(2, _PAIRS, q.dim))
        highest, *_ = elbo_over(model, q._mean, q._factor, draws)
        found, highest = None, highest + _LOWER
        for share in _NARROWER:
            value, *_ = elbo_over(model, q._mean + moves[best], share * q._factor, draws)
            if value > highest:
                found, highest = Gaussian._from_factor(q._mean + moves[best], share * q._factor), value
        used += (1 + len(_NARROWER)) * len(draws)
        if found is None:
            uphill = _laplace(model)(model, q._mean + moves[best])
            used += uphill.evaluations
            if not uphill.status:
                factor = restricted(uphill.factor, family) if family in CODES else uphill.factor
                value, *_ = elbo_over(model, uphill.mean, factor, draws)
                used += len(draws)
                found = Gaussian._from_factor(uphill.mean, factor) if value > highest else None
    return Rival(found, used)


def _step_along(
    model: Model, draws: Array, direction: Array, within: float
) -> tuple[Array, float, float, int]:
    """The best step for all draws in a direction, and what the mean log joint gains.

    And by how much at least it falls on both sides within a distance, and the evaluations.
    """

    def gains(distances: Array) -> Array:
        points = draws + (distances[:, None] * direction)[:, None]
        values = densities_or_zero(model, points.reshape(-1, direction.size)).reshape(len(points), -1)
        means: Array = values.mean(axis=1)
        return means

    distances = np.append(0.0, _DISTANCES)
    values = gains(distances)
    used = values.size * len(draws)
    near, here = distances[np.argmax(values)], values[0]
    reached = np.abs(distances)
    fall = here - values[reached == reached[reached <= within].max()].max()
    if near != 0.0:
        # And where a parabola through these two and one as far beyond is highest.
        far = gains(np.array([2.0 * near]))[0]
        bend = 2.0 * values.max() - here - far
        more = np.array([2.0 * near, near * (1.0 + 0.5 * (far - here) / bend)])
        distances, values = np.append(distances, more), np.append(values, gains(more))
        used += 3 * len(draws)
    best = int(np.nanargmax(values))
    return distances[best] * direction, float(values[best] - here), float(fall), used


def _laplace(model: Model) -> Callable[[Model, Array], Laplace]:
    """Laplace's approximation near a point, without a gradient by values.

    With one these would cost much more where Newton's method finds no mode.
    """
    return newtons_laplace if model._slopes_address else laplace_from


def _points(q: Gaussian) -> Iterator[Array]:
    """Points around q, and between them draws of wide Gaussians around the origin, twice as many.

    In mixtures of narrow Gaussians in 3 to 7 dimensions, of four ascents from points around q 0.2 lead to a
    better mode, of four from these 0.6.
    """
    rng = np.random.default_rng(_SEED)
    for point in points_around([q], rng):
        for width in _WIDTHS:
            yield width * rng.standard_normal(q.dim)
        yield point
