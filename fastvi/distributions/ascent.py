r"""Steps that raise the ELBO of a mixture of Gaussians, for fits of models and for I-projections.

F = Σ_j w_j Σ_s v_s [log p(z_js) - log q(z_js)], z_js = m_j + L_j e_s, over fixed points e_s with weights v_s.
L-BFGS increases F by its exact gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..common.values import Array
from ..kernels.densities.gaussians import LOG_2PI
from ..kernels.statuses import FINE
from .gaussian import lower_factor
from .mixture import GaussianMixture

#: L-BFGS: pairs that are kept, largest change of a coordinate in a step, increase that a step must have as a
#: share of what its derivative promises, and how often a step may be shortened.
_MEMORY, _LONGEST, _INCREASE, _SHRINKS = 20, 1.0, 1e-4, 30

#: A step that is too long is shortened to between the first two parts of it; to the last, where F is not
#: finite at its end.
_LEAST_PART, _MOST_PART, _NOT_FINITE_PART = 0.1, 0.5, 0.2

#: Pairs are kept where the cosine of step and change of the gradient is above this: there F is concave.
_LEAST_COSINE = 1e-10

#: Keeps the maximum of a parabola finite where there is none.
_TINY = 1e-300

#: A component's least weight, where coordinates are scaled by its root.
_LEAST_WEIGHT = 0.02

#: Halves of a component: their distance from its mean in deviations.
_APART = 0.7

#: Log p and its gradient at points (N, D): (status, values (N,), gradients (N, D)). The second argument has
#: the deviations of q, a unit for differences.
Slopes = Callable[[Array, Array], tuple[int, Array, Array]]

#: (F, its derivatives in log weights, means and factors) of a mixture.
Evaluate = Callable[["Parts"], tuple[float, Array, Array, Array]]


class Parts(NamedTuple):
    """A mixture in latent coordinates."""

    logs: Array  #: logarithms of the weights (K,)
    means: Array  #: (K, D)
    factors: Array  #: lower triangles (K, D, D), or deviations (K, D)

    @property
    def weights(self) -> Array:
        """The weights (K,)."""
        found: Array = np.exp(self.logs)
        return found

    def spread(self, noise: Array) -> Array:
        """L_j e for each component and each row of the noise, (K, S, D)."""
        if self.factors.ndim == 2:
            return noise * self.factors[:, None, :]
        found: Array = noise @ self.factors.swapaxes(1, 2)
        return found

    def dense(self) -> Array:
        """The factors as matrices."""
        if self.factors.ndim == 3:
            return self.factors
        return self.factors[:, :, None] * np.eye(self.means.shape[1])

    def mixture(self) -> GaussianMixture:
        """The distribution."""
        return GaussianMixture._from_factors(
            *(np.ascontiguousarray(part) for part in (self.logs, self.means, self.dense()))
        )

    def without(self, j: int) -> Parts:
        """The mixture of the other components."""
        keep = np.arange(len(self.logs)) != j
        return normalised(self.logs[keep], self.means[keep], self.factors[keep])

    def replaced(self, j: int, weights: Any, means: Any, factors: Any) -> Parts:
        """Others in the place of component j, which share its weight by `weights`."""
        keep = np.arange(len(self.logs)) != j
        return normalised(
            np.concatenate([self.logs[keep], self.logs[j] + np.log(weights)]),
            np.concatenate([self.means[keep], means]),
            np.concatenate([self.factors[keep], factors]),
        )

    def with_another(self, weight: float, mean: Array, factor: Array) -> Parts:
        """One more component, with this share of all."""
        logs = np.append(self.logs + math.log1p(-weight), math.log(weight))
        return normalised(logs, np.vstack([self.means, mean]), np.concatenate([self.factors, factor[None]]))


def normalised(logs: Array, means: Array, factors: Array) -> Parts:
    """The mixture with weights in these proportions."""
    return Parts(logs - np.logaddexp.reduce(logs), means, factors)


class Scores(NamedTuple):
    """Of a mixture at points (N, D), component by component."""

    log_q: Array  #: (N,)
    shares: Array  #: responsibilities (K, N)
    whitened: Array  #: L_i⁻¹ (z - m_i), (K, N, D)
    slopes: Array  #: L_i⁻ᵀ L_i⁻¹ (z - m_i), (K, N, D)

    @property
    def gradient(self) -> Array:
        """That of log q, (N, D)."""
        found: Array = -np.einsum("kn,knd->nd", self.shares, self.slopes)
        return found


def scores_of(parts: Parts, points: Array) -> Scores:
    """log q and what its derivatives are made of."""
    logs, means, factors = parts
    centred = points - means[:, None, :]
    if factors.ndim == 2:
        whitened = centred / factors[:, None, :]
        slopes, halves = whitened / factors[:, None, :], np.log(factors).sum(axis=1)
    else:
        inverses = np.linalg.inv(factors)
        whitened = centred @ inverses.swapaxes(1, 2)
        slopes = whitened @ inverses
        halves = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
    terms = logs[:, None] - 0.5 * np.einsum("knd,knd->kn", whitened, whitened) - halves[:, None]
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    total = shares.sum(axis=0)
    shares /= total
    return Scores(top + np.log(total) - 0.5 * means.shape[1] * LOG_2PI, shares, whitened, slopes)


class Objective:
    """F and its gradient in coordinates x, whose unit is the deviations of an origin.

    x has for each component the change of its logit, of its mean in its deviations, and of its factor T,
    L_j = L0_j T, whose diagonal is given by logarithms; each divided by the root of its weight, which makes
    the ELBO of components far apart as steep in all.
    """

    def __init__(self, evaluate: Evaluate, origin: Parts) -> None:
        self.evaluate, self.origin = evaluate, origin
        self.count, self.dim = origin.means.shape
        self.diagonal = origin.factors.ndim == 2
        self.unit = 1.0 / np.sqrt(np.maximum(origin.weights, _LEAST_WEIGHT))
        self.lower = np.tril_indices(self.dim, -1)
        self.size = self.count * (1 + 2 * self.dim + (0 if self.diagonal else len(self.lower[0])))

    def split(self, x: Array) -> tuple[Array, Array, Array, Array]:
        """(logits (K,), shifts (K, D), logarithms (K, D), what is below the diagonal) in units of one."""
        rows, d = x.reshape(self.count, -1) * self.unit[:, None], self.dim
        return (
            rows[:, 0],
            rows[:, 1 : 1 + d],
            rows[:, 1 + d : 1 + 2 * d] / math.sqrt(2.0),
            rows[:, 1 + 2 * d :],
        )

    def parts(self, x: Array) -> Parts:
        """The mixture at x."""
        logs, means, factors = self.origin
        logits, shifts, logarithms, below = self.split(x)
        diagonals = np.exp(logarithms)
        if self.diagonal:
            return normalised(logs + logits, means + factors * shifts, factors * diagonals)
        inner = diagonals[:, :, None] * np.eye(self.dim)
        inner[:, self.lower[0], self.lower[1]] = below
        moved = means + np.einsum("kij,kj->ki", factors, shifts)
        return normalised(logs + logits, moved, factors @ inner)

    def __call__(self, x: Array) -> tuple[float, Array]:
        """(F, its gradient); -inf where the log joint is at fault at one of the points."""
        with np.errstate(all="ignore"):
            parts = self.parts(x)
            if not all(np.isfinite(part).all() for part in parts):
                return -math.inf, x
            value, by_logs, by_means, by_factors = self.evaluate(parts)
            if not value > -math.inf:
                return -math.inf, x
            factors = self.origin.factors
            by_logits = by_logs - parts.weights * by_logs.sum()
            if self.diagonal:
                shifts, below = factors * by_means, np.empty((self.count, 0))
                logarithms = parts.factors * by_factors
            else:
                shifts = np.einsum("kij,ki->kj", factors, by_means)
                inner = factors.swapaxes(1, 2) @ by_factors
                diagonals = np.exp(self.split(x)[2])
                logarithms = np.diagonal(inner, axis1=1, axis2=2) * diagonals
                below = inner[:, self.lower[0], self.lower[1]]
            rows = np.concatenate([by_logits[:, None], shifts, logarithms / math.sqrt(2.0), below], axis=1)
            gradient = (rows * self.unit[:, None]).ravel()
            usable = float(gradient @ gradient) < math.inf
        return (value, gradient) if usable else (-math.inf, x)


class Elbo:
    """F and its derivatives in log weights, taken as free, in means and in factors, for any log p."""

    def __init__(self, slopes: Slopes, noise: Array, weights: Array) -> None:
        self.slopes, self.noise, self.weights = slopes, noise, weights
        self.evaluations = 0

    def __call__(self, parts: Parts) -> tuple[float, Array, Array, Array]:
        """(F, its derivatives); -inf where log p is at fault."""
        (k, d), s = parts.means.shape, len(self.noise)
        points = (parts.means[:, None, :] + parts.spread(self.noise)).reshape(-1, d)
        unit = (parts.weights[:, None] * deviations(parts)).sum(axis=0)
        status, values, slopes = self.slopes(points, unit)
        self.evaluations += len(points)
        if status != FINE:
            return -math.inf, *parts
        found = scores_of(parts, points)
        difference = values - found.log_q
        weights = (parts.weights[:, None] * self.weights).ravel()
        value = float(weights @ difference)
        # By the points, which move with the parameters.
        along = (weights[:, None] * (slopes - found.gradient)).reshape(k, s, d)
        by_means = along.sum(axis=1)
        # And by log q at points that stay.
        held = weights * found.shares
        by_means -= np.einsum("kn,knd->kd", held, found.slopes)
        if parts.factors.ndim == 2:
            by_factors = (along * self.noise).sum(axis=1)
            by_factors -= np.einsum("kn,knd,knd->kd", held, found.slopes, found.whitened)
            by_factors += held.sum(axis=1)[:, None] / parts.factors
        else:
            by_factors = along.swapaxes(1, 2) @ self.noise
            by_factors -= (held[:, :, None] * found.slopes).swapaxes(1, 2) @ found.whitened
            inverse = 1.0 / np.diagonal(parts.factors, axis1=1, axis2=2)
            by_factors += held.sum(axis=1)[:, None, None] * (inverse[:, :, None] * np.eye(d))
            by_factors = np.tril(by_factors)
        by_logs = (weights * difference).reshape(k, s).sum(axis=1) - held.sum(axis=1)
        return value, by_logs, by_means, by_factors


def deviations(parts: Parts) -> Array:
    """The deviations of each component (K, D)."""
    if parts.factors.ndim == 2:
        return parts.factors
    found: Array = np.sqrt((parts.factors**2).sum(axis=2))
    return found


class Climb(NamedTuple):
    """Where an ascent ends."""

    x: Array
    value: float
    lack: float  #: nats that F lacks there, by its gradient
    norm: float
    values: list[float]  #: after each step
    stuck: bool


def climb(objective: Callable[[Array], tuple[float, Array]], x: Array, steps: int, tolerance: float) -> Climb:
    """Steps of L-BFGS until F lacks less than the tolerance: gᵀ H g / 2, and g² / 2 at least.

    A step to where F is not finite is shortened like one that does not increase F.
    Source: J. Nocedal, S. J. Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5.
    """
    value, slope = objective(x)
    pairs: list[tuple[Array, Array, float]] = []
    values: list[float] = []
    if value == -math.inf:
        return Climb(x, value, math.inf, math.inf, values, True)
    while True:
        along = _times_inverse(pairs, slope)
        promised = float(along @ slope)
        if not promised > 0.0:
            pairs.clear()
            along, promised = slope, float(slope @ slope)
        norm = math.sqrt(float(slope @ slope))
        lack = 0.5 * max(promised, norm**2)
        if lack <= tolerance or len(values) >= steps:
            return Climb(x, value, lack, norm, values, False)
        largest = float(np.abs(along).max())
        length = min(1.0, _LONGEST / largest) if pairs else min(1.0, 1.0 / norm, _LONGEST / largest)
        for _ in range(_SHRINKS):
            after, steeper = objective(x + length * along)
            if after >= value + _INCREASE * length * promised and after > value:
                break
            # The maximum of the parabola, where there is one.
            best = 0.5 * promised * length**2 / max(promised * length - (after - value), _TINY)
            if after > -math.inf:
                length = min(max(best, _LEAST_PART * length), _MOST_PART * length)
            else:
                length = _NOT_FINITE_PART * length
        else:
            if pairs:
                pairs.clear()
                continue
            return Climb(x, value, lack, norm, values, True)
        step, change = length * along, slope - steeper
        x, value, slope = x + step, after, steeper
        values.append(value)
        product = float(step @ change)
        if product > _LEAST_COSINE * math.sqrt(float(step @ step) * float(change @ change)):
            pairs = [*pairs, (step, change, product)][-_MEMORY:]


def _times_inverse(pairs: list[tuple[Array, Array, float]], slope: Array) -> Array:
    """The gradient times the inverse of the negative Hessian, by the pairs."""
    if not pairs:
        return slope
    found, parts = slope.copy(), []
    for step, change, product in reversed(pairs):
        part = float(step @ found) / product
        found -= part * change
        parts.append(part)
    step, change, product = pairs[-1]
    found *= product / float(change @ change)
    for (step, change, product), part in zip(pairs, reversed(parts), strict=True):
        found += (part - float(change @ found) / product) * step
    return found


@lru_cache(maxsize=16)
def lattice(dim: int, step: float, reach: float) -> tuple[Array, Array]:
    """(points, weights) of the trapezoid rule in a ball, whose second moments are exactly one."""
    half = np.arange(0.0, reach + step / 2, step)
    line = np.concatenate([-half[:0:-1], half])
    points = np.stack(np.meshgrid(*([line] * dim), indexing="ij"), axis=-1).reshape(-1, dim)
    squares = (points**2).sum(axis=1)
    points, squares = points[squares <= reach**2], squares[squares <= reach**2]
    weights = np.exp(-0.5 * squares)
    weights /= weights.sum()
    points = points / math.sqrt(float(weights @ points[:, 0] ** 2))
    return np.ascontiguousarray(points), weights


def halved(parts: Parts, j: int, axis: Array) -> Parts:
    """Two components in the place of one, along a whitened axis, with its mean and covariance."""
    mean, factor = parts.means[j], parts.factors[j]
    if factor.ndim == 1:
        shift, less = _APART * factor * axis, factor * np.sqrt(1.0 - (_APART * axis) ** 2)
    else:
        shift = _APART * (factor @ axis)
        inner = np.eye(axis.size) - (1.0 - math.sqrt(1.0 - _APART**2)) * np.outer(axis, axis)
        less = lower_factor(factor @ inner)
    return parts.replaced(j, [0.5, 0.5], [mean + shift, mean - shift], [less, less])
