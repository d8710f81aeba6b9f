r"""Fits of q = Σ w_j N(m_j, L_j L_j'), a mixture of Gaussians in latent coordinates, by the ELBO.

Steps of `distributions.ascent` raise F, the ELBO on fixed points: a lattice in up to two dimensions, pairs of
draws +e, -e in more. The mixture grows from the best single Gaussian, one component at a time, from
proposals: other modes, halves of a component, and draws at which p / q is large. A component that does not
pay is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..common.values import Array
from ..distributions.ascent import (
    Climb,
    Elbo,
    Objective,
    Parts,
    climb,
    deviations,
    halved,
    lattice,
    scores_of,
)
from ..distributions.gaussian import Gaussian
from ..distributions.mixture import GaussianMixture
from ..distributions.variational import TransformedMixture
from ..kernels.statuses import (
    CONVERGED,
    OVERFITTED,
    SATURATED,
    STEPS_EXHAUSTED,
    STUCK,
    UNRESOLVED,
    WRONG_GRADIENT,
)
from .deterministic import latent_fit
from .diagnostics import GRADIENT_EVALUATIONS, wrong_gradient
from .expectations import (
    SHARE_OF_ERROR,
    fixed_draws,
    mixture_expectation,
    mixture_quadrature,
    mixture_saturation,
    overfitted,
    writable,
)
from .kernel_calls import QUADRATURE_DIM, densities_or_zero, slopes_at
from .model import Model
from .modes import mode_at
from .results import Fit, fit_of_report, q_of
from .starts import crossings, is_near, laplace_from, points_around

#: Latent dimensions up to which covariances are full, and up to which there are fits.
FULL_DIM, MOST_DIM = 50, 256

#: Relative error of the quadrature for choices; that of the result, as a share of the one allowed, and at
#: least.
_ROUGH_RTOL, _SHARE_OF_RTOL, _LEAST_RTOL = 1e-6, 0.25, 1e-14

#: Components at most.
MOST_COMPONENTS = 64

#: Nats that a component must add.
_WORTH = 2e-3

#: The lattice in up to two dimensions: its reach, its step to begin with, how often that may be halved, and
#: how far F may be from the ELBO by quadrature. With 1e-3 for that six Gaussians come to a KL of 0.095 in a
#: funnel in the plane, with 1e-5 to 0.076.
_REACH, _STEP, _HALVINGS, _OFF = 6.0, 0.6, 3, 1e-5

#: Pairs of draws of each component: at least, for each dimension of a full and of a diagonal covariance, at
#: most, and where proposals are compared.
_LEAST_PAIRS, _PAIRS_EACH, _PAIRS_EACH_DIAGONAL, _MOST_PAIRS, _FEW_PAIRS = 32, 4, 1, 2048, 16

#: Standard error of the ELBO that is small enough, for choices and for the result.
_ENOUGH_TO_CHOOSE, _ENOUGH = 2e-3, 3e-3

#: A component pays where it adds this many standard errors.
_SIGNIFICANT = 2.0

#: Steps of a proposal, steps of a new mixture, and steps after which the unit of the coordinates is renewed.
_TRIAL_STEPS, _STAGE_STEPS, _STEPS_AT_ONCE = 12, 80, 100

#: Proposals that are followed to the end, at most, until one pays.
_TRIES = 3

#: Gradient tolerance, in nats that F lacks, of a mixture that may still grow.
_ROUGH = 1e-4

#: How many components are halved, along how many axes each.
_HALVED, _AXES = 2, 3

#: Draws of q whose importance weights propose components, how many, and their deviations beside those of the
#: component that they were drawn from.
_DRAWS, _DRAWN, _NARROWER = 1024, 2, 0.7

#: A mode is left out where log p - log q is so high; it is none that pays with so many nats less than q.
_HIGHER, _LIGHTER = 1.0, 10.0

#: First word of the seeds here.
_SEED = 20240304


def evaluations_each(model: Model) -> int:
    """Evaluations of the log joint that a gradient takes."""
    return 1 if model._slopes_address else 1 + 2 * model.latent_dim


class _Fitted(NamedTuple):
    """A mixture that an ascent ends at."""

    parts: Parts
    value: float  #: the ELBO, from other points than those of F
    error: float
    status: int
    norm: float  #: of the gradient


class _Grown(NamedTuple):
    """What growth ends with."""

    parts: Parts
    values: list[float]  #: the ELBO with one component, two, ...
    error: float
    status: int
    norm: float


class _Growth:
    """A mixture that grows: its parts, their ELBO as fresh draws or quadrature have it, and what it costs."""

    def __init__(self, model: Model, rtol: float, max_steps: int, draws: int | None) -> None:
        self.model, self.rtol, self.max_steps = model, rtol, max_steps
        self.dim = model.latent_dim
        self.diagonal = self.dim > FULL_DIM
        each = _PAIRS_EACH_DIAGONAL if self.diagonal else _PAIRS_EACH
        self.pairs = max(_LEAST_PAIRS, each * self.dim)
        self.most = _MOST_PAIRS
        if draws is not None:
            self.pairs = self.most = max((draws + 1) // 2, self.dim)
        self.halvings = 0
        self.value = -math.inf  # the ELBO of the mixture that grows
        self.evaluations = 0
        self.trace: list[float] = []

    def nodes(self, few: bool = False) -> tuple[Array, Array]:
        """(points, weights) of F."""
        if self.dim <= QUADRATURE_DIM:
            return lattice(self.dim, _STEP * 0.5 ** (0 if few else self.halvings), _REACH)
        pairs = max(_FEW_PAIRS, self.dim) if few else self.pairs
        noise = writable(fixed_draws(0, min(pairs, self.pairs), self.dim))
        return noise, np.full(len(noise), 1.0 / len(noise))

    def elbo(self, parts: Parts) -> tuple[float, float]:
        """(the ELBO, its error) for choices: other draws than those of F and those of the result."""
        mixture = parts.mixture()
        if self.dim <= QUADRATURE_DIM:
            try:
                found = mixture_quadrature(self.model, mixture, max(self.rtol, _ROUGH_RTOL))
            except ValueError:
                return -math.inf, 0.0
            self.evaluations += found.evaluations
            return found.value, found.error
        draws = mixture_expectation(self.model, mixture, np.random.default_rng(_SEED), _ENOUGH_TO_CHOOSE)
        self.evaluations += draws.evaluations
        return (draws.value, draws.error) if not draws.status else (-math.inf, 0.0)

    def climb(self, parts: Parts, steps: int, tolerance: float, few: bool = False) -> tuple[Parts, Climb]:
        """(the mixture at the end of an ascent, that ascent), in units that are renewed."""
        taken = 0
        while True:
            elbo = Elbo(partial(slopes_at, self.model), *self.nodes(few))
            objective = Objective(elbo, parts)
            found = climb(objective, np.zeros(objective.size), min(_STEPS_AT_ONCE, steps - taken), tolerance)
            self.evaluations += elbo.evaluations * evaluations_each(self.model)
            taken += len(found.values)
            if not few:
                self.trace += found.values
            if found.value > -math.inf:
                parts = objective.parts(found.x)
            if found.lack <= tolerance or found.stuck or taken >= steps:
                return parts, found

    def fit(self, parts: Parts, steps: int, tolerance: float) -> _Fitted:
        """The best mixture near one: on more points as long as these are overfitted."""
        while True:
            parts, found = self.climb(parts, steps, tolerance)
            if found.value == -math.inf:
                return _Fitted(parts, found.value, 0.0, STUCK, math.inf)
            value, error = self.elbo(parts)
            status = CONVERGED
            if found.lack > tolerance:
                status = STUCK if found.stuck else STEPS_EXHAUSTED
            if self.dim <= QUADRATURE_DIM:
                fine, last = abs(found.value - value) <= _OFF + error, self.halvings == _HALVINGS
            else:
                fine, last = not overfitted(found.value, value, error), 2 * self.pairs > self.most
            if fine or last:
                off = UNRESOLVED if self.dim <= QUADRATURE_DIM else OVERFITTED
                return _Fitted(parts, value, error, status if fine else off, found.norm)
            self.halvings, self.pairs = self.halvings + 1, 2 * self.pairs

    def proposals(self, parts: Parts, peaks: list[Gaussian]) -> Iterator[Parts]:
        """Mixtures of one component more."""
        means, factors = parts.means, parts.factors
        noise, shares = self.nodes(few=True)
        points = (means[:, None, :] + parts.spread(noise)).reshape(-1, self.dim)
        unit = (parts.weights[:, None] * deviations(parts)).sum(axis=0)
        status, values, slopes = slopes_at(self.model, points, unit)
        self.evaluations += len(points) * evaluations_each(self.model)
        missed = list(self.left_out(parts, peaks))
        if not status:
            found = scores_of(parts, points)
            rest = (values - found.log_q).reshape(len(means), -1)
            middle = float(parts.weights @ (rest @ shares))
            if not missed and parts.weights @ ((rest - middle) ** 2 @ shares) < _WORTH:
                return  # near p, KL(q ‖ p) is half of that variance
            slope = (slopes - found.gradient).reshape(len(means), -1, self.dim)
            spread = parts.weights * (shares * (rest - (rest @ shares)[:, None]) ** 2).sum(axis=1)
            for j in np.argsort(-spread, kind="stable")[:_HALVED]:
                for axis in self.axes(parts, int(j), slope[j], shares):
                    yield halved(parts, int(j), axis)
        # Where draws of q have the largest p / q.
        rng = np.random.default_rng((_SEED, len(means)))
        which = rng.choice(len(means), size=_DRAWS, p=parts.weights / parts.weights.sum())
        one = rng.standard_normal((_DRAWS, 1, self.dim))
        drawn = np.empty((_DRAWS, self.dim))
        for j in np.unique(which):
            drawn[which == j] = Parts(parts.logs[j : j + 1], means[j : j + 1], factors[j : j + 1]).spread(
                one[which == j][:, 0]
            )[0]
        drawn += means[which]
        logs = densities_or_zero(self.model, drawn) - scores_of(parts, drawn).log_q
        self.evaluations += _DRAWS
        share = 1.0 / (1.0 + len(means))
        ratios = np.exp(logs - logs.max()) if logs.max() > -math.inf else np.ones(_DRAWS)
        for n in rng.choice(_DRAWS, size=_DRAWN, p=ratios / ratios.sum()):
            yield parts.with_another(share, drawn[n], _NARROWER * factors[which[n]])
        yield from missed

    def left_out(self, parts: Parts, peaks: list[Gaussian]) -> Iterator[Parts]:
        """Mixtures with one of the modes that q leaves out."""
        for peak in peaks:
            log_q = float(scores_of(parts, peak._mean[None]).log_q[0])
            top = float(densities_or_zero(self.model, peak._mean[None])[0])
            mass = top + peak.entropy() - 0.5 * self.dim
            if top - log_q > _HIGHER and mass > self.value - _LIGHTER:
                other = 1.0 / (1.0 + math.exp(min(max(self.value - mass, -3.0), 3.0)))
                yield parts.with_another(other, peak._mean, _restricted(peak._factor, self.diagonal))

    def axes(self, parts: Parts, j: int, slope: Array, shares: Array) -> Iterator[Array]:
        """Whitened axes of a component along which log p - log q is steepest (E of the square)."""
        factor = parts.factors[j]
        steep = slope * factor if factor.ndim == 1 else slope @ factor
        if self.diagonal:
            for i in np.argsort(-(shares @ steep**2))[:_AXES]:
                yield np.eye(self.dim)[i]
            return
        _, axes = np.linalg.eigh((shares[:, None] * steep).T @ steep)
        yield from axes.T[::-1][:_AXES]

    def with_one_more(self, parts: Parts, error: float, peaks: list[Gaussian]) -> _Fitted | None:
        """The mixture with one component more, from the best proposal that pays; None where none does.

        `error` is that of the ELBO of the mixture.
        """
        trials = []
        for begin in self.proposals(parts, peaks):
            trial, found = self.climb(begin, _TRIAL_STEPS, _ROUGH, few=True)
            if found.value > -math.inf:
                trials.append((found.value, trial))
        for _, trial in sorted(trials, key=lambda t: -t[0])[:_TRIES]:
            one_more = self.fit(trial, min(_STAGE_STEPS, self.max_steps), _ROUGH)
            if self.pays(one_more, error):
                return one_more
        return None

    def grown(self, alone: Parts, peaks: list[Gaussian], count: int) -> _Grown | None:
        """The mixture of at most `count` components that all pay; None where that is the single Gaussian."""
        self.value, error = self.elbo(alone)
        parts, values = alone, [self.value]
        while len(values) < count:
            found = self.with_one_more(parts, error, peaks)
            if found is None:
                break
            parts, self.value, error = found[:3]
            values.append(self.value)
        if len(values) == 1:
            return None
        wanted = max(self.rtol * (1.0 + abs(self.value)), SHARE_OF_ERROR * error)
        best = self.fit(parts, self.max_steps, wanted)
        values[-1] = best.value
        # What the others have taken over is left out.
        while len(values) > 1:
            lightest = int(best.parts.logs.argmin())
            less = self.fit(best.parts.without(lightest), min(_STAGE_STEPS, self.max_steps), wanted)
            if not best.value - less.value < _WORTH:
                break
            best = less
            values = [*values[:-2], best.value]
        if len(values) == 1:
            return None
        return _Grown(best.parts, values, best.error, best.status, best.norm)

    def pays(self, found: _Fitted, error: float) -> bool:
        """Whether a mixture is better by what a component must add, beyond the errors."""
        gain, doubt = found.value - self.value, _SIGNIFICANT * math.hypot(found.error, error)
        return bool(gain > max(_WORTH, doubt))


def _restricted(factor: Array, diagonal: bool) -> Array:
    """The factor, or its diagonal covariance's deviations."""
    return np.sqrt((factor**2).sum(axis=1)) if diagonal else factor


def _peaks(growth: _Growth, mean: Array, factor: Array) -> list[Gaussian]:
    """Laplace's approximations at modes, from points around q, its mirror images, and crossings of modes."""
    model, dim = growth.model, mean.size
    rng = np.random.default_rng((_SEED, dim))
    around = points_around([Gaussian._from_factor(mean, factor)], rng)
    found: list[Gaussian] = []
    for start in [np.zeros(dim), *around]:
        growth.evaluations += _search(model, start, found)
    for point in crossings(found, rng):
        growth.evaluations += _search(model, point, found)
    return found


def _search(model: Model, start: Array, found: list[Gaussian]) -> int:
    """Search for a mode from a point, and add it to those found; the evaluations."""
    laplace = laplace_from(model, start)
    mode = mode_at(model, laplace)
    if mode is not None and not any(is_near(mode.mean, peak) for peak in found):
        found.append(Gaussian._from_factor(mode.mean, mode.factor))
    return laplace.evaluations + 1 + 2 * start.size


def q_of_mixture(model: Model, parts: Parts) -> GaussianMixture | TransformedMixture:
    """q in the model's coordinates."""
    mixture = parts.mixture()
    return mixture if model._support.is_real else TransformedMixture._of(mixture, model._support)


def fit_mixture_of_gaussians(
    model: Model,
    count: int,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None = None,
    rng: Any = 0,
) -> Fit:
    """The fit of at most `count` Gaussians; arguments have been checked. `rng` is for the fresh draws."""
    growth = _Growth(model, rtol, max_steps, draws)
    plane = growth.dim <= QUADRATURE_DIM
    family = "diag" if growth.diagonal else "full"
    single, method = latent_fit(model, family, start, rtol, max_steps, draws, rng)
    growth.evaluations += int(single.report.evaluations)
    factor = _restricted(single.factor, growth.diagonal)
    alone = Parts(np.zeros(1), single.mean[None].copy(), factor[None].copy())
    report = single.report
    if count == 1 or not single.leads_on:
        return _alone(model, growth, single, alone, method)
    if model._gradient_address:
        growth.evaluations += GRADIENT_EVALUATIONS
        where = wrong_gradient(model, single.mean, single.factor)
        if where is not None:
            single = single._replace(report=report._replace(status=WRONG_GRADIENT), where=where)
            return _alone(model, growth, single, alone, method)
    grown = growth.grown(alone, _peaks(growth, single.mean, single.factor), count)
    if grown is None:
        return _alone(model, growth, single, alone, method)
    parts = Parts(*(part[np.argsort(-grown.parts.logs, kind="stable")] for part in grown.parts))
    mixture, where = parts.mixture(), single.where
    status, unknown = grown.status, mixture_saturation(model, mixture)
    if plane:
        exact = mixture_quadrature(model, mixture, max(_SHARE_OF_RTOL * rtol, _LEAST_RTOL))
        growth.evaluations += exact.evaluations
        value, error = exact.value, exact.error
        if status == CONVERGED and error - unknown > rtol * (1.0 + abs(value)):
            status = UNRESOLVED
    else:
        fresh = mixture_expectation(model, mixture, rng, _ENOUGH)
        growth.evaluations += fresh.evaluations
        value, error = fresh.value, fresh.error + unknown
        if fresh.status:
            value, error, status, where = grown.values[-1], math.inf, fresh.status, fresh.where
    if status == CONVERGED and unknown > max(error - unknown, rtol * (1.0 + abs(value))):
        status = SATURATED
    if not value > report.elbo:
        return _alone(model, growth, single, alone, method)
    trace = np.array(growth.trace)
    report = report._replace(
        elbo=value,
        error=error,
        gradient_norm=grown.norm,
        evaluations=growth.evaluations,
        status=status,
        steps=trace.size,
    )
    fit = fit_of_report(model, "mixture", q_of_mixture(model, parts), report, trace, where, method)
    return fit._replace(gains=tuple(float(gain) for gain in np.diff(grown.values)))


def _alone(model: Model, growth: _Growth, single: Any, alone: Parts, method: str) -> Fit:
    """The fit of a single Gaussian as a mixture."""
    report = single.report._replace(evaluations=growth.evaluations)
    q = q_of(model, single.mean, single.factor)
    fit = fit_of_report(model, "mixture", q, report, single.trace, single.where, method)
    return fit._replace(q=q_of_mixture(model, alone), gains=())
