r"""Fits of a multivariate t distribution by the ELBO.

With z = m + r L v, v a direction and r the length of a standard t vector, of which b = r² / (ν + r²) is
Beta(D / 2, ν / 2), the ELBO is E[log p(m + r L v)] and the entropy, which is known. Over fixed directions
and quantiles of r, E is a function F of m, L and ν with an exact gradient: a quantile moves with ν. The
directions are the axes of rotated frames, both ways, so that F is flat at p where p is such a t itself.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..common.values import Array
from ..distributions.ascent import climb
from ..distributions.student import StudentT, radii, slope_of_entropy, standard_entropy
from ..kernels.statuses import (
    CONVERGED,
    FINE,
    OVERFITTED,
    STEPS_EXHAUSTED,
    STUCK,
)
from .deterministic import latent_fit
from .expectations import BY_DRAWS, SHARE_OF_ERROR, overfitted, student_expectation
from .kernel_calls import QUADRATURE_DIM, slopes_at
from .mixture_fits import evaluations_each
from .model import Model
from .results import Fit, fit_of_report, q_of

#: Families that have a t, by the form of its scale.
FAMILIES = ("full", "diag")

#: Latent dimensions up to which there are fits; scales are full up to FULL_DIM.
MOST_STUDENT_DIM = 256

#: Degrees of freedom: of the start, and the least and the most that are tried. With 10,000 the ELBO of a t is
#: that of a Gaussian to 1e-8 for each dimension, and with 0.5 the length of draws is 1e18.
_DF, _LEAST_DF, _MOST_DF = 10.0, 0.5, 1e4

#: The logarithm of a step in ν, at most: ν stays a float, and the bounds above cut it.
_MOST_LOG = 100.0

#: A t with so many is the Gaussian, whose ELBO is compared by the same draws: of a kinked log joint in 8
#: dimensions its own check has an error of 0.08 nats, these one of 0.011.
_AS_GAUSSIAN = 1e6

#: Quantiles of r: those of normal numbers, their reach and step. The step of differences by log ν.
_REACH, _STEP, _DIFFERENCE = 6.0, 0.6, 1e-4

#: Frames of directions: at least, and for each dimension of a full scale; in the plane. Points of F at most.
_LEAST_FRAMES, _FRAMES_EACH, _FRAMES_IN_THE_PLANE, _MOST_POINTS = 4, 0.5, 8, 2**18

#: Nats that F may lack at first. Steps after which the unit of the coordinates is renewed.
_ROUGH, _STEPS_AT_ONCE = 1e-4, 100

#: A t is kept where it adds so many nats, and standard errors.
_WORTH, _SIGNIFICANT = 1e-4, 2.0

#: Standard error of the ELBO that is small enough.
_ENOUGH = 3e-3

#: First word of the seeds here.
_SEED = 20240305


class Shape(NamedTuple):
    """A t distribution in latent coordinates."""

    mean: Array  #: its location (D,)
    factor: Array  #: lower triangle (D, D), or deviations (D,)
    df: float

    def student(self) -> StudentT:
        """The distribution."""
        factor = np.diag(self.factor) if self.factor.ndim == 1 else self.factor
        return StudentT._from_factor(self.mean, np.ascontiguousarray(factor), self.df)


@lru_cache(maxsize=8)
def _quantiles() -> tuple[Array, Array, Array]:
    """(probabilities, one less these, weights) of the nodes of r: the trapezoid rule in a normal number."""
    from scipy.special import ndtr

    x = np.arange(-_REACH, _REACH + 0.5 * _STEP, _STEP)
    weights = np.exp(-0.5 * x * x)
    return ndtr(x), ndtr(-x), weights / weights.sum()


def _directions(dim: int, frames: int) -> Array:
    """Unit vectors (2 D frames, D), the axes of frames both ways."""
    if dim == 1:
        half = np.ones((1, 1))
    elif dim == 2:
        angles = np.arange(2 * frames) * (0.5 * math.pi / frames)
        half = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    else:
        rng = np.random.default_rng((_SEED, dim))
        half = np.linalg.qr(rng.standard_normal((frames, dim, dim)))[0].reshape(-1, dim)
    return np.concatenate([half, -half])


class Objective:
    """F and its gradient in coordinates x, whose unit is the deviations of an origin.

    x has the change of the location in these, the logarithms of the diagonal of T times sqrt(2), L = L0 T,
    what is below that diagonal, and the change of log ν.
    """

    def __init__(self, model: Model, directions: Array, origin: Shape) -> None:
        self.model, self.directions, self.origin = model, directions, origin
        self.dim, self.diagonal = origin.mean.size, origin.factor.ndim == 1
        self.lower = np.tril_indices(self.dim, -1)
        self.size = 2 * self.dim + (0 if self.diagonal else len(self.lower[0])) + 1
        self.evaluations = 0

    def shape(self, x: Array) -> Shape:
        """The t at x."""
        mean, factor, df = self.origin
        d = self.dim
        diagonal = np.exp(x[d : 2 * d] / math.sqrt(2.0))
        df = df * math.exp(min(x[-1], _MOST_LOG))
        if self.diagonal:
            return Shape(mean + factor * x[:d], factor * diagonal, df)
        inner = np.diag(diagonal)
        inner[self.lower] = x[2 * d : -1]
        return Shape(mean + factor @ x[:d], factor @ inner, df)

    def __call__(self, x: Array) -> tuple[float, Array]:
        """(F, its gradient); -inf where the log joint is at fault at a point, or ν goes too far."""
        with np.errstate(all="ignore"):
            mean, factor, df = shape = self.shape(x)
            if not (_LEAST_DF <= df <= _MOST_DF and all(np.isfinite(part).all() for part in shape)):
                return -math.inf, x
            d, root = self.dim, self.origin.factor
            low, high, weights = _quantiles()
            lengths = radii(df, 0.5 * d, 0.5 * df, low, high)
            more, less = df * math.exp(_DIFFERENCE), df * math.exp(-_DIFFERENCE)
            beyond, within = (radii(f, 0.5 * d, 0.5 * f, low, high) for f in (more, less))
            rates = np.log(beyond / within) / (2.0 * _DIFFERENCE)  # of log r by log ν
            noise = (lengths[:, None, None] * self.directions).reshape(-1, d)
            moved = noise * factor if self.diagonal else noise @ factor.T
            unit = factor if self.diagonal else np.sqrt((factor * factor).sum(axis=1))
            status, values, slopes = slopes_at(self.model, mean + moved, unit)
            self.evaluations += len(noise) * evaluations_each(self.model)
            if status != FINE:
                return -math.inf, x
            weights = np.repeat(weights / len(self.directions), len(self.directions))
            volume = np.log(factor if self.diagonal else factor.diagonal()).sum()
            value = float(weights @ values + volume) + standard_entropy(df, d)
            weighted = weights[:, None] * slopes
            by_log_df = float((weighted * moved).sum(axis=1) @ np.repeat(rates, len(self.directions)))
            by_log_df += slope_of_entropy(df, d)
            by_mean = weighted.sum(axis=0)
            if self.diagonal:
                shifts, below = root * by_mean, np.empty(0)
                logarithms = factor * (weighted * noise).sum(axis=0) + 1.0
            else:
                inner = root.T @ (weighted.T @ noise)
                shifts, below = root.T @ by_mean, inner[self.lower]
                logarithms = inner.diagonal() * np.exp(x[d : 2 * d] / math.sqrt(2.0)) + 1.0
            gradient = np.concatenate([shifts, logarithms / math.sqrt(2.0), below, [by_log_df]])
        usable = value > -math.inf and float(gradient @ gradient) < math.inf
        return (value, gradient) if usable else (-math.inf, x)


class _Fitted(NamedTuple):
    """The t that an ascent ends at."""

    shape: Shape
    value: float  #: the ELBO by fresh draws
    error: float
    status: int
    norm: float  #: of the gradient


class _Ascents:
    """Ascents of F, over more directions as long as these are overfitted, and what they cost."""

    def __init__(self, model: Model, family: str, max_steps: int, draws: int | None) -> None:
        self.model, self.max_steps, self.dim = model, max_steps, model.latent_dim
        if self.dim == 2:
            self.frames = _FRAMES_IN_THE_PLANE
        else:
            each = _FRAMES_EACH if family == "full" else 0.0
            self.frames = 1 if self.dim == 1 else _LEAST_FRAMES + math.ceil(each * self.dim)
        self.most = max(_MOST_POINTS // (2 * self.dim * len(_quantiles()[0])), self.frames)
        if draws is not None:
            self.frames = self.most = max(draws // (2 * self.dim * len(_quantiles()[0])), 1)
        self.evaluations = 0
        self.trace: list[float] = []

    def fit(self, shape: Shape, tolerance: float) -> _Fitted | None:
        """The best t near one; None where F is not finite there."""
        while True:
            taken = 0
            while True:
                objective = Objective(self.model, _directions(self.dim, self.frames), shape)
                steps = min(_STEPS_AT_ONCE, self.max_steps - taken)
                found = climb(objective, np.zeros(objective.size), steps, tolerance)
                self.evaluations += objective.evaluations
                self.trace += found.values
                taken += len(found.values)
                if found.value == -math.inf:
                    return None
                shape = objective.shape(found.x)
                if found.lack <= tolerance or found.stuck or taken >= self.max_steps:
                    break
            value, error = self.elbo(shape, np.random.default_rng(_SEED))
            status = CONVERGED
            if found.lack > tolerance:
                status = STUCK if found.stuck else STEPS_EXHAUSTED
            fine = not overfitted(found.value, value, error)
            if fine or self.dim == 1 or 2 * self.frames > self.most:
                return _Fitted(shape, value, error, status if fine else OVERFITTED, found.norm)
            self.frames *= 2

    def elbo(self, shape: Shape, rng: Any) -> tuple[float, float]:
        """(the ELBO, its error) by fresh draws; -inf where the log joint is at fault at one of them."""
        found = student_expectation(self.model, shape.student(), rng, _ENOUGH)
        self.evaluations += found.evaluations
        return (found.value, found.error) if not found.status else (-math.inf, 0.0)


def fit_student(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None = None,
    rng: Any = 0,
) -> Fit:
    """The fit of a t; of a Gaussian where a t adds nothing. Arguments have been checked."""
    plane = model.latent_dim <= QUADRATURE_DIM
    single, method = latent_fit(model, family, start, rtol, max_steps, draws, rng)
    report = single.report
    ascents = _Ascents(model, family, max_steps, draws)
    if single.leads_on:
        factor = single.factor.diagonal().copy() if family == "diag" else single.factor
        best = ascents.fit(Shape(single.mean, factor, _DF), _ROUGH)
        if best is not None:
            wanted = max(rtol * (1.0 + abs(best.value)), SHARE_OF_ERROR * best.error)
            best = ascents.fit(best.shape, wanted)
        if best is not None:
            value, error = ascents.elbo(best.shape, rng)
            other, its_error = report.elbo, report.error
            if not plane:
                other, its_error = ascents.elbo(Shape(single.mean, factor, _AS_GAUSSIAN), rng)
            if value - other > max(_WORTH, _SIGNIFICANT * math.hypot(error, its_error)):
                trace = np.array(ascents.trace)
                report = report._replace(
                    elbo=value,
                    error=error,
                    gradient_norm=best.norm,
                    evaluations=report.evaluations + ascents.evaluations,
                    status=best.status,
                    steps=trace.size,
                )
                student = best.shape.student()
                return fit_of_report(model, family, student, report, trace, single.where, BY_DRAWS)
    report = report._replace(evaluations=report.evaluations + ascents.evaluations)
    q = q_of(model, single.mean, single.factor)
    return fit_of_report(model, family, q, report, single.trace, single.where, method)
