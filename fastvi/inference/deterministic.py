"""Fits by quadrature and on fixed draws: what `fit` calls, with the same result in every run."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.variational import TruncatedGaussian
from ..kernels.families.table import CODES, CORRELATED, HELD
from ..kernels.statuses import (
    CONTRADICTED,
    CONVERGED,
    OVERFITTED,
    STEPS_EXHAUSTED,
    STUCK,
    UNBOUNDED,
    WRONG_GRADIENT,
)
from .diagnostics import GRADIENT_EVALUATIONS, wrong_gradient
from .expectations import BY_DRAWS, expectation_by_draws, fixed_draws, overfitted, writable
from .faults import start_error
from .kernel_calls import (
    conditional_deviations,
    fault_point,
    fit_on_draws,
    start_scale,
    workspace,
    workspace_member,
)
from .model import Model, target_of
from .optima import TRACE, LatentFit, fit_from_best_start, newton_fit, outputs
from .racing import Start, choose_start, elbo_over
from .results import Fit, fit_of_report, q_of
from .saturation import with_its_error
from .starts import check_start, start_of

#: Pairs of fixed draws to begin with: at least 32, and for each dimension one, or four with a full
#: covariance, which has more parameters.
_LEAST_PAIRS = 32
_PAIRS_EACH, _PAIRS_EACH_FULL = 1, 4

#: Most pairs: they are doubled up to here as long as fresh draws show that the fit is overfitted.
_MOST_PAIRS = 8192

#: Pairs far from the optimum, at least, and the gradient tolerance of the fit on them.
_FEW_PAIRS = 12
_NEAR = 0.15

#: Gradient tolerance of the first fit on fixed draws; a tighter one is pointless while Monte Carlo error
#: dominates.
_ROUGH = 3e-3

#: The fit on fixed draws is accurate enough where it lacks less than this share of the ELBO's standard error.
_SHARE_OF_ERROR = 0.01

#: Fresh draws show the optimism that counts where the ELBO's standard error is this share of it.
_ENOUGH = 1.0 / 3.0

#: The unit of a fit's coordinates is taken anew where q's deviations have changed by this factor since, at
#: most so many times on the same draws.
_FAR, _FOLLOWED = 2.0, 6

#: Steps after which q may have moved so far that this is looked at.
_STEPS_AT_ONCE = 50

#: A posterior is improper where a q that is so wide gains, for each of its wide axes, at least so many nats
#: when it grows on by each of these factors. (The entropy alone gives 4.6 for a factor of 100.)
_WIDE, _STEADY, _STRETCHES = 30.0, 1.0, (1.0, 1e2, 1e4, 1e6)

#: The mean moves off in proportion, and by these factors more: then what q loses where it should not be, as
#: behind the plane that separates two classes, does not grow.
_FARTHER = (1.0, 4.0, 30.0)

#: Relative tolerance and most steps of the Gaussian fit whose moments start a truncated one.
_START_RTOL, _START_STEPS = 1e-3, 50


def fit_quadrature(model: Model, family: str, start: Any, rtol: float, max_steps: int) -> Fit:
    """The fit of a Gaussian by Newton's method on quadrature, in up to two latent dimensions."""
    mean, factor = start_of(model, start)
    check_start(family, factor)
    if factor is None:
        found = fit_from_best_start(model, family, mean, rtol, max_steps, start is not None)
    else:
        found = newton_fit(model, family, mean, factor, rtol, max_steps)
    q = q_of(model, found.mean, found.factor)
    report = with_its_error(model, found.mean, found.factor, found.report, rtol)
    return fit_of_report(model, family, q, report, found.trace, found.where, "quadrature")


def fit_truncated(model: Model, start: Any, rtol: float, max_steps: int) -> Fit:
    """The fit of a TruncatedGaussian by quadrature, for a model of dimension 1."""
    if model.dim != 1:
        raise ValueError(f'family="truncated" needs a model of dimension 1, this one has {model.dim}')
    low, high = model._support.interval
    parameters, used = np.empty((1, 2)), 0
    if isinstance(start, TruncatedGaussian):
        parameters[0] = start.mu, start.sigma
    else:
        # Start with the moments of the Gaussian fit in latent coordinates.
        rough = fit_quadrature(model, "full", start, _START_RTOL, _START_STEPS)
        parameters[0] = float(rough.q.mean[0]), math.sqrt(float(rough.q.cov[0, 0]))
        used = rough.evaluations
    traces, reports, where = outputs(1)
    kernels.inference.entry_points.fit_truncated(
        target_of(model),
        (low, high),
        parameters,
        rtol,
        max_steps,
        workspace("truncated"),
        (traces, reports, where),
        0,
        1,
    )
    report = kernels.inference.reports.Report._make(reports[0].tolist())
    report = report._replace(evaluations=report.evaluations + used)
    q = TruncatedGaussian(float(parameters[0, 0]), float(parameters[0, 1]), low, high)
    return fit_of_report(model, "truncated", q, report, traces[0], where[0], "quadrature")


class _FixedDraws:
    """Fits by L-BFGS on fixed draws, one after another, each from the q of the last."""

    def __init__(self, model: Model, family: str, start: Start, max_steps: int) -> None:
        r = model.latent_dim
        mean, root, scale, self.evaluations, self.best = start
        self.model, self.family, self.max_steps = model, family, max_steps
        self.code = CODES[family]
        self.space = workspace("draws", self.code, r, model.dim)
        self.point = workspace_member("draws", self.space, "point")
        self.curvature = workspace_member("draws", self.space, "curvature")
        self.point[:] = 0.0
        self.start = self.first = mean.copy(), root, start_scale(scale, family)
        self.mean, self.factor = np.empty(r), np.empty((r, r))
        self.traces: list[Array] = []

    def climb(self, pairs: int, tolerance: float) -> Any:
        """Maximise the ELBO over this number of pairs of draws; the report."""
        left, followed = self.max_steps, 0
        while True:
            report = self._climb(pairs, tolerance, min(left, _STEPS_AT_ONCE))
            left -= int(report.steps)
            if report.status == STEPS_EXHAUSTED and left > 0:
                if self.spreads_without_end():
                    return report._replace(status=UNBOUNDED)
                if not self._follow():
                    self.keep_curvature()
            elif report.status in (CONVERGED, STUCK) and followed < _FOLLOWED and self._follow():
                left, followed = max(left, 1), followed + 1
            else:
                return report

    def _climb(self, pairs: int, tolerance: float, most_steps: int) -> Any:
        trace = np.empty(TRACE)
        draws, q = writable(fixed_draws(0, pairs, self.model.latent_dim)), (self.mean, self.factor)
        limits = tolerance, most_steps
        report = fit_on_draws(self.model, self.code, draws, self.start, limits, q, self.space, trace)
        self.evaluations += int(report.evaluations)
        self.traces.append(trace[: int(report.steps)])
        if statuses.is_fault(report.status) and report.steps == 0:
            fault = int(report.status), fault_point("draws", self.space)
            raise start_error(self.model, self.code, self.start, fault)
        return report

    def _follow(self) -> bool:
        """Take q for the coordinates' origin and unit; False where its deviations are near the unit already.

        The gradient and the finite differences are in this unit: one much narrower than q makes the gradient
        small wherever the mean is, and a wide one makes differences coarse.
        """
        if self.family in HELD:
            return False
        _, root, unit = self.start
        correlated = self.family in CORRELATED
        scale = conditional_deviations(self.factor) if correlated else np.diag(self.factor).copy()
        ratio = scale / unit
        if ((ratio > 1.0 / _FAR) & (ratio < _FAR)).all() or not np.isfinite(ratio).all():
            return False
        self.start = self.mean.copy(), self.factor.copy() if correlated else ratio[:, None] * root, scale
        self.point[:] = 0.0
        return True

    def spreads_without_end(self) -> bool:
        """Whether q gains for ever by growing on along the axes on which it is wide.

        No Gaussian does where the posterior is proper: its ELBO is at most the log evidence.
        """
        if not np.isfinite(self.factor).all():
            return False
        axes, widths, _ = np.linalg.svd(self.factor)
        axes = axes[:, widths > _WIDE]
        if axes.size == 0:
            return False
        noise = writable(fixed_draws(1, self.mean.size + _LEAST_PAIRS, self.mean.size))

        def grown(far: float, stretch: float) -> float:
            """The ELBO of q, `stretch` times as wide on these axes and `far` times as many widths away."""
            mean = self.mean + axes @ (axes.T @ self.mean) * (far * stretch - 1.0)
            factor = self.factor + axes @ (axes.T @ self.factor) * (stretch - 1.0)
            lower = np.linalg.qr(factor.T)[1].T
            return elbo_over(self.model, mean, lower * np.sign(np.diag(lower)), noise)[0]

        least = _STEADY * axes.shape[1]
        for far in _FARTHER:
            pairs = itertools.pairwise(grown(far, stretch) for stretch in _STRETCHES)
            if all(after > before + least > -math.inf for before, after in pairs):
                return True
        return False

    def restart(self) -> None:
        """Go back to the start."""
        self.point[:] = 0.0
        self.start = self.first

    def keep_curvature(self) -> None:
        """The next fit begins with the pairs of L-BFGS that this one ends with."""
        draws_fits = kernels.inference.draws_fits
        self.curvature[draws_fits.BEGIN] = self.curvature[draws_fits.KNOWN]


def _first_pairs(family: str, dim: int, draws: int | None) -> int:
    """Pairs of fixed draws to begin with."""
    if draws is None:
        return max(_LEAST_PAIRS, (_PAIRS_EACH_FULL if family in CORRELATED else _PAIRS_EACH) * dim)
    if draws < 2 * dim:
        raise ValueError(f"draws must be at least 2 x {dim}, to match second moments, not {draws!r}")
    return (draws + 1) // 2


def fit_draws(
    model: Model, family: str, start: Any, rtol: float, max_steps: int, draws: int | None, rng: Any = 0
) -> Fit:
    """The fit of a Gaussian on fixed draws."""
    found = draws_fit(model, family, start, rtol, max_steps, draws, rng)
    q = q_of(model, found.mean, found.factor)
    return fit_of_report(model, family, q, found.report, found.trace, found.where, BY_DRAWS)


def draws_fit(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None = None,
    rng: Any = 0,
) -> LatentFit:
    """The fit of a Gaussian on fixed draws, whose number is doubled until fresh draws confirm the ELBO."""
    r = model.latent_dim
    fits = _FixedDraws(model, family, choose_start(model, start, family), max_steps)
    pairs, few = _first_pairs(family, r, draws), max(_FEW_PAIRS, r)
    if draws is None and 2 * few <= pairs:
        # Far from the optimum few draws suffice: eight schools takes half of its 20 steps on 24.
        if fits.climb(few, _NEAR).status not in (CONVERGED, UNBOUNDED):
            fits.restart()
        else:
            fits.keep_curvature()
    # Near its maximum an ELBO lacks half the squared length of its gradient.
    wanted = max(math.sqrt(rtol), _ROUGH)
    while True:
        report = fits.climb(pairs, wanted)
        status = int(report.status)
        if status == STUCK and fits.spreads_without_end():
            status = UNBOUNDED
        last = draws is not None or 2 * pairs > _MOST_PAIRS
        entropy = Gaussian._from_factor(fits.mean, fits.factor).entropy()
        promised = -math.inf if last else report.elbo - entropy
        enough = _ENOUGH * kernels.inference.draws_fits.OPTIMISM
        expectation = expectation_by_draws(model, fits.mean, fits.factor, promised, rng, enough)
        fits.evaluations += expectation.evaluations
        value, error = expectation.value + entropy, expectation.error
        if expectation.status or status == UNBOUNDED:
            break
        if not overfitted(report.elbo, value, error):
            accurate = 0.5 * wanted**2 <= _SHARE_OF_ERROR * error or wanted <= rtol
            if accurate or status not in (CONVERGED, STUCK):
                break
            # The curvature is not kept: its pairs of L-BFGS are too inaccurate this close to the optimum.
            wanted = rtol
            continue
        if last:
            status = OVERFITTED
            break
        pairs *= 2
        fits.keep_curvature()
    small = report.gradient_norm <= max(math.sqrt(rtol), _ROUGH)
    asked = max(rtol * (1.0 + abs(value)), _SHARE_OF_ERROR * error)
    if status == STUCK and small and 0.5 * report.gradient_norm**2 <= asked:
        status = CONVERGED  # no nearer for the rounding of the log joint, but as near as was asked
    if status == CONVERGED and fits.best > value + 3.0 * error:
        status = CONTRADICTED
    where = fault_point("draws", fits.space)
    if expectation.status:
        value, error, where = report.elbo, math.inf, expectation.where
        status = status if status == UNBOUNDED else expectation.status
    if model._gradient_address:
        wrong = wrong_gradient(model, fits.mean, fits.factor)
        fits.evaluations += GRADIENT_EVALUATIONS
        if wrong is not None:
            status, where = WRONG_GRADIENT, wrong
    trace = np.concatenate(fits.traces)
    report = report._replace(
        elbo=value, error=error, evaluations=fits.evaluations, status=status, steps=trace.size
    )
    report = with_its_error(model, fits.mean, fits.factor, report, rtol)
    return LatentFit(fits.mean, fits.factor, report, trace, where)
