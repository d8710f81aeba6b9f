"""Fits by quadrature and on fixed draws: what `fit` calls, with the same result in every run."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.values import Array
from ..distributions.gaussian import Gaussian, LowRank, lower_factor
from ..distributions.variational import TransformedGaussian, TruncatedGaussian
from ..kernels.families.table import CODES, CORRELATED, HELD, LOW_RANK
from ..kernels.statuses import (
    CONTRADICTED,
    CONVERGED,
    FINE,
    OVERFITTED,
    STEPS_EXHAUSTED,
    STUCK,
    UNBOUNDED,
    UNCONFIRMED,
    WRONG_GRADIENT,
    ZERO,
)
from .diagnostics import GRADIENT_EVALUATIONS, wrong_gradient
from .expectations import (
    BY_DRAWS,
    ENOUGH_EACH,
    SHARE_OF_ERROR,
    DrawsExpectation,
    expectation_by_draws,
    expectation_by_pairs,
    fixed_draws,
    overfitted,
    writable,
)
from .faults import start_error
from .improper import tails_after
from .jumps import unseen_gradient
from .kernel_calls import (
    DRAWS_DIM,
    QUADRATURE_DIM,
    conditional_deviations,
    densities_or_zero,
    deviations_of,
    fault_point,
    fit_on_draws,
    start_scale,
    workspace,
    workspace_member,
)
from .low_rank import low_rank_start, packed, wide_start
from .model import Model, target_of
from .optima import TRACE, LatentFit, fit_from_best_start, newton_fit, or_improper, outputs
from .racing import Start, choose_start
from .results import Fit, fit_of_report, q_of
from .rivals import Rival, along_axes, along_ridges, rival_of
from .saturation import with_its_error
from .starts import check_start, start_of

#: Pairs of fixed draws to begin with: at least 32, and for each dimension one, or four with a full
#: covariance, which has more parameters.
_LEAST_PAIRS = 32
_PAIRS_EACH, _PAIRS_EACH_FULL = 1, 4

#: Where Laplace's approximation is off by no more nats for each dimension, as many pairs as far from the
#: optimum are enough for the fit: over 100 dimensions it loses 0.008 nats, and 0.002 with four times as many.
_GAUSSIAN = 0.01

#: Where calls are expensive: pairs to begin with, at least, and those that make one call.
_PAIRS_IN_A_CALL, _MOST_PAIRS_IN_A_CALL = 128, 256

#: Most pairs: they are doubled up to here as long as fresh draws show that the fit is overfitted.
_MOST_PAIRS = 8192

#: Pairs far from the optimum, at least, and the gradient tolerance of the fit on them.
_FEW_PAIRS = 12
_NEAR = 0.15

#: How much narrower a start is made, and how often, where the log joint is -inf at one of more draws than
#: the start was chosen by: along the logarithm of a deviation a density may be level for hundreds of units.
_NARROWER, _NARROWED = 0.1, 4

#: Gradient tolerance of the first fit on fixed draws, in up to so many dimensions, and with the root of their
#: number beyond; a tighter one is pointless while Monte Carlo error dominates.
_ROUGH, _ROUGH_DIM = 3e-3, 10

#: The search for rivals costs a share of the fit, or of so many evaluations and for each dimension.
_SPENT, _SPENT_EACH = 200, 64

#: Nats by which the ELBO from farther along a rise of the density must be higher: with the prior tau**-2 it
#: is level as far as rounding lets q go, and is not known to end there.
_ON_A_RISE = 0.5

#: How a fit may end on a ridge or a plateau, short of the optimum.
_SHORT = CONVERGED, STEPS_EXHAUSTED, STUCK, OVERFITTED

#: Fits from rivals, each of which has a higher ELBO than the one before; and the nats by which the last is
#: higher where there may be as much more, if there is one more rival.
_RIVALS, _STILL = 3, 0.05

#: Nats by which steps after that may change the ELBO, for no other fresh draws to be taken; not beside
#: exponentials, whose mean changes by more than draws show (2e-4, with an error of 4e-6).
_MOVED = 1e-4

#: Fresh draws show the optimism that counts where the ELBO's standard error is this share of it.
_ENOUGH = 0.5

#: Twice as many fixed draws halve what an ELBO over them is too high by. Where it falls by less than this
#: share of what fresh draws lacked, they lacked it by chance. (In a Poisson regression of 305 dimensions, 1.4
#: standard errors of the first 576 had the fixed draws doubled four times.)
_OPTIMISM_LEFT = 0.1

#: Dimensions up to which fresh draws are blocks of the radial rule. In 300 dimensions 768 draws beside a
#: quadratic have an error of 0.05 to 0.09 nats for a logistic regression, 14,400 by the radial rule 0.03 to
#: 0.05.
_BLOCKS_DIM = 64

#: Pairs of fixed draws to begin with in more than DRAWS_DIM dimensions, and far from the optimum.
_PAIRS_WIDE, _FEW_PAIRS_WIDE = 64, 16

#: Numbers in the draws of one fit, or of one step of "sgd", at most: 270 MB.
MOST_NUMBERS = 2**25

#: The unit of a fit's coordinates is taken anew where q's deviations have changed by this factor since, at
#: most so many times on the same draws.
_FAR, _FOLLOWED = 2.0, 6

#: Steps after which q may have moved so far that this is checked.
_STEPS_AT_ONCE = 50

#: A posterior is improper where a q that is so wide gains, for each of its wide axes, at least so many nats
#: when it grows on by each of these factors, to where no prior is. (The entropy alone gives 4.6 for 100.)
_WIDE, _STEADY, _STRETCHES = 30.0, 1.0, (1.0, 1e2, 1e4, 1e6, 1e12, 1e25, 1e50, 1e100)

#: The mean moves off in proportion, and by these factors more: then what q loses where it should not be, as
#: behind the plane that separates two classes, does not grow.
_FARTHER = (1.0, 4.0, 30.0)

#: A fit has not converged where jumps of the log joint may hide so much of the ELBO's gradient.
_UNSEEN = 0.1

#: Relative tolerance and most steps of the Gaussian fit whose moments start a truncated one.
START_RTOL, START_STEPS = 1e-3, 50


def fit_quadrature(model: Model, family: str, start: Any, rtol: float, max_steps: int) -> Fit:
    """The fit of a Gaussian by Newton's method on quadrature, in up to two latent dimensions."""
    found = quadrature_fit(model, family, start, rtol, max_steps)
    q = q_of(model, found.mean, found.factor)
    return fit_of_report(model, family, q, found.report, found.trace, found.where, "quadrature")


def quadrature_fit(model: Model, family: str, start: Any, rtol: float, max_steps: int) -> LatentFit:
    """The same, as what it finds in latent coordinates."""
    mean, factor = start_of(model, start)
    check_start(family, factor)
    if factor is None:
        found = fit_from_best_start(model, family, mean, rtol, max_steps, start is not None)
    else:
        found = or_improper(model, newton_fit(model, family, mean, factor, rtol, max_steps))
    return found._replace(report=with_its_error(model, found.mean, found.factor, found.report, rtol))


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
        rough = fit_quadrature(model, "full", start, START_RTOL, START_STEPS)
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

    def __init__(
        self,
        model: Model,
        family: str,
        start: Start,
        max_steps: int,
        thin: Array | None = None,
        narrower: int = 0,
    ) -> None:
        """`thin` is the factor (1 + R, D) to begin with, for a q of low rank.

        Where the log joint is -inf under it, the start is made narrower up to `narrower` times.
        """
        r = model.latent_dim
        mean, root, scale, self.evaluations, self.best, *_ = start
        self.model, self.family, self.max_steps, self.thin = model, family, max_steps, thin
        height = r if thin is None else len(thin)
        if thin is None:
            self.code, scale = CODES[family], start_scale(scale, family)
        else:
            self.code = kernels.families.low_rank.FIRST + height - 1
        self.space = workspace("draws", self.code, r, model.dim)
        self.point = workspace_member("draws", self.space, "point")
        self.curvature = workspace_member("draws", self.space, "curvature")
        self.curvature[:] = 0
        self.start = self.first = mean.copy(), root, scale
        self.narrower = narrower
        #: Whether the last fit ended at `point` in these coordinates and on these draws: then the next one
        #: goes on from value and gradient there. (A gradient by differences to one side is taken anew.)
        self.known = False
        self.restart()
        self.mean, self.factor = np.empty(r), np.empty((height, r))
        self.traces: list[Array] = []
        self.draws: Array = np.empty((0, r))

    def gaussian(self) -> Gaussian:
        """q."""
        return Gaussian._from_factor(self.mean, self.factor)

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
        if len(self.draws) != 2 * pairs:
            make = fixed_draws if self.model.latent_dim <= DRAWS_DIM else fixed_draws.__wrapped__
            self.draws, self.known = writable(make(0, pairs, self.model.latent_dim)), False
        draws, q = self.draws, (self.mean, self.factor)
        limits = tolerance, most_steps
        self.curvature[kernels.inference.draws_fits.RESUME] = self.known
        report = fit_on_draws(self.model, self.code, draws, self.start, limits, q, self.space, trace)
        self.known = bool(self.model._slopes_address)
        self.evaluations += int(report.evaluations)
        self.traces.append(trace[: int(report.steps)])
        if statuses.is_fault(report.status) and report.steps == 0:
            if report.status == ZERO and self.narrower > 0:
                self.narrower -= 1
                mean, root, scale = self.start
                self.start = self.first = mean, _NARROWER * root, _NARROWER * scale
                return self._climb(pairs, tolerance, most_steps)
            fault = int(report.status), fault_point("draws", self.space)
            raise start_error(self.model, self.code, self.start, fault)
        return report

    @np.errstate(divide="ignore", invalid="ignore")
    def _follow(self) -> bool:
        """Take q for the coordinates' origin and unit; False where its deviations are near the unit already.

        The gradient and the finite differences are in this unit: one much narrower than q makes the gradient
        small wherever the mean is, and a wide one makes differences coarse.
        """
        if self.family in HELD:
            return False
        _, root, unit = self.start
        correlated = self.family in CORRELATED
        if self.thin is not None:
            scale = LowRank(self.factor).conditional_deviations()
        else:
            scale = conditional_deviations(self.factor) if correlated else np.diag(self.factor).copy()
        ratio: Array = scale / unit
        widths = _widths_in(root, self.factor) if correlated else ratio
        if ((widths > 1.0 / _FAR) & (widths < _FAR)).all() or not np.isfinite([ratio, widths]).all():
            return False
        stretched = ratio * root if len(root) == 1 else ratio[:, None] * root
        self.start = self.mean.copy(), self.factor.copy() if correlated else stretched, scale
        self.known = False
        self._put(self.factor)
        return True

    @np.errstate(over="ignore", invalid="ignore")
    def spreads_without_end(self) -> bool:
        """Whether q gains for ever by growing on along the axes on which it is wide.

        No Gaussian does where the posterior is proper: its ELBO is at most the log evidence.
        """
        if not np.isfinite(self.factor).all():
            return False
        if self.thin is not None:
            return self._widens_without_end()
        axes, widths, _ = np.linalg.svd(self.factor)
        # Of a level without any zeros one coefficient has no end: an axis has some of the others as well.
        coordinates = np.eye(self.mean.size)[:, deviations_of(self.factor) > _WIDE]
        return any(self._grows_along(wide) for wide in (axes[:, widths > _WIDE], coordinates) if wide.size)

    def _grows_along(self, axes: Array) -> bool:
        """The same along some axes."""
        noise = writable(fixed_draws(1, self.mean.size + _LEAST_PAIRS, self.mean.size))

        def grown(far: float, stretch: float) -> float:
            """The ELBO of q, `stretch` times as wide on these axes and `far` times as many widths away."""
            mean = self.mean + axes @ (axes.T @ self.mean) * (far * stretch - 1.0)
            factor = self.factor + axes @ (axes.T @ self.factor) * (stretch - 1.0)
            return self.elbo_within_floats(mean, lower_factor(factor), noise)

        least = _STEADY * axes.shape[1]
        for far in _FARTHER:
            pairs = itertools.pairwise(grown(far, stretch) for stretch in _STRETCHES)
            if all(after > before + least > -math.inf for before, after in pairs):
                return True
        return False

    def _widens_without_end(self) -> bool:
        """The same for a q of low rank, along the coordinates on which it is wide."""
        wide = self.factor[0] > _WIDE
        if not wide.any():
            return False
        noise, least = writable(fixed_draws(1, _LEAST_PAIRS, self.mean.size)), _STEADY * int(wide.sum())

        def grown(far: float, stretch: float) -> float:
            mean, factor = self.mean.copy(), self.factor.copy()
            mean[wide] *= far * stretch
            factor[0, wide] *= stretch
            return self.elbo_within_floats(mean, factor, noise)

        for far in _FARTHER:
            pairs = itertools.pairwise(grown(far, stretch) for stretch in _STRETCHES)
            if all(after > before + least > -math.inf for before, after in pairs):
                return True
        return False

    def elbo_within_floats(self, mean: Array, factor: Array, noise: Array) -> float:
        """The ELBO over draws, -inf where one of them is so far out that its coordinates are no floats."""
        q = Gaussian._from_factor(mean, factor)
        return float(densities_or_zero(self.model, mean + q._spread(noise)).mean()) + q.entropy()

    def expectation(self, promised: float, rng: Any) -> DrawsExpectation:
        """That of the log joint under q, from fresh draws."""
        dim, q = self.mean.size, (self.mean, self.factor)
        enough = _ENOUGH * _optimism(dim)
        if dim <= _BLOCKS_DIM:
            return expectation_by_draws(self.model, *q, promised, rng, enough)
        root = self.first[1]
        curvature = None if self.family in CORRELATED or len(root) == 1 else root
        return expectation_by_pairs(self.model, *q, promised, rng, enough, curvature)

    def restart(self) -> None:
        """Go back to the start."""
        self.start, self.known = self.first, False
        self._put(self.thin)

    def _put(self, thin: Array | None) -> None:
        """Let the next fit begin at the coordinates' origin, with this factor where q is of low rank."""
        self.point[:] = 0.0 if thin is None or self.thin is None else packed(thin, *self.start[1:])

    def keep_curvature(self) -> None:
        """The next fit begins with the pairs of L-BFGS that this one ends with."""
        draws_fits = kernels.inference.draws_fits
        self.curvature[draws_fits.BEGIN] = self.curvature[draws_fits.KNOWN]


def _widths_in(root: Array, factor: Array) -> Array:
    """The deviations of a Gaussian along its axes in the unit of another one; NaN where one is no float.

    Along a ridge they grow while conditional deviations stay: the common mean of 40 groups was 3 of q's
    deviations off where its gradient was 0.006 in the first unit.
    """
    try:
        return np.linalg.svd(np.linalg.solve(root, factor), compute_uv=False).astype(np.float64)
    except np.linalg.LinAlgError:
        return np.full(len(factor), math.nan)


def _first_pairs(family: str, dim: int, draws: int | None) -> int:
    """Pairs of fixed draws to begin with."""
    if draws is None and dim > DRAWS_DIM:
        return _PAIRS_WIDE
    if draws is None:
        return max(_LEAST_PAIRS, (_PAIRS_EACH_FULL if family in CORRELATED else _PAIRS_EACH) * dim)
    if draws < 2 * dim <= 2 * DRAWS_DIM:
        raise ValueError(f"draws must be at least 2 x {dim}, to match second moments, not {draws!r}")
    return (draws + 1) // 2


def _optimism(dim: int) -> float:
    """The optimism of fixed draws that fresh ones are to show, in nats."""
    least: float = kernels.inference.draws_fits.OPTIMISM
    return least if dim <= _BLOCKS_DIM else max(least, ENOUGH_EACH * math.sqrt(dim) / _ENOUGH)


def _mislead(begin: Start, family: str, pairs: int) -> bool:
    """Whether on so many pairs a q without correlations finds an optimism that counts, by the curvature.

    Fewer pairs than dimensions have other second moments M than I: a quadratic with the precision P in units
    of q's deviations seems to have (P M)_ii along coordinate i, not P_ii. For 40 regressors that go together
    the ELBO over 32 pairs was too high by 7 nats.
    """
    dim = begin.mean.size
    if pairs >= dim or len(begin.root) != dim or family in HELD:
        return False
    whitened = np.linalg.solve(begin.root, np.diag(start_scale(begin.scale, family)))
    e = fixed_draws(0, pairs, dim)
    off = (e * (e @ whitened.T @ whitened)).mean(axis=0) - (whitened * whitened).sum(axis=0)
    # A deviation that follows gains a quarter of the square.
    return bool(0.25 * (off * off).sum() > _optimism(dim))


def fit_draws(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None,
    rng: Any = 0,
    rank: int | None = None,
) -> Fit:
    """The fit of a Gaussian on fixed draws, with this rank where the family has one."""
    found = draws_fit(model, family, start, rtol, max_steps, draws, rng, rank)
    q = q_of(model, found.mean, found.factor)
    return fit_of_report(model, family, q, found.report, found.trace, found.where, BY_DRAWS)


def latent_fit(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None = None,
    rng: Any = 0,
) -> tuple[LatentFit, str]:
    """The fit of a Gaussian, on quadrature where there is one, else on fixed draws; and the ELBO's method."""
    if model.latent_dim <= QUADRATURE_DIM:
        return quadrature_fit(model, family, start, rtol, max_steps), "quadrature"
    return draws_fit(model, family, start, rtol, max_steps, draws, rng), BY_DRAWS


def draws_fit(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None = None,
    rng: Any = 0,
    rank: int | None = None,
) -> LatentFit:
    """The fit of a Gaussian on fixed draws, or a better one from farther along a ridge.

    Without a start the best of it and some from other modes.
    """
    found = _draws_fit(model, family, start, rtol, max_steps, draws, rng, rank)
    dense = model.latent_dim <= kernels.inference.laplace.DENSE
    if not dense or model._calls_are_expensive:
        return found
    is_local, outcome = start is not None, FINE
    used, better = int(found.report.evaluations), 0
    while better < _RIVALS:
        report = found.report
        rival, more, outcome = _rival_to(model, family, found, is_local)
        used += more
        if rival is None:
            break
        start = rival if model._support.is_real else TransformedGaussian._of(rival, model._support)
        try:
            other = _draws_fit(model, family, start, rtol, max_steps, draws, rng, rank)
        except ValueError:  # the log joint fails near that mode
            break
        used += int(other.report.evaluations)
        gained, is_far = other.report.elbo - report.elbo, rival is found.rival
        is_better = gained > (_ON_A_RISE if report.status == UNCONFIRMED else 0.0)
        if not (is_better or is_far):
            break
        found = other if is_better else found
        if is_far and gained <= _STILL:
            found = found._replace(rival=None)  # another kind of rival may still be better
            continue
        better += 1
        if found.report.status == OVERFITTED:  # another one would take as many draws again
            break
    else:
        if gained > _STILL and found.report.status == CONVERGED:
            rival, more, outcome = _rival_to(model, family, found, is_local)
            used, outcome = used + more, outcome if rival is None else UNCONFIRMED
    if outcome == UNBOUNDED or (outcome and found.report.status == CONVERGED):
        found = found._replace(report=found.report._replace(status=outcome))
    return found._replace(report=found.report._replace(evaluations=used))


def _rival_to(model: Model, family: str, found: LatentFit, is_local: bool) -> Rival:
    """Where a fit may reach more than this one; with `is_local` only along ridges."""
    report, q = found.report, Gaussian._from_factor(found.mean, found.factor)
    if found.rival is not None and not is_local:
        return Rival(found.rival, 0)
    rival, used, outcome = Rival(None, 0)
    if report.status in _SHORT and not is_local:
        rival, used, _ = along_axes(model, q, family, report.evaluations, found.logarithms)
    if rival is None and report.status in _SHORT and not found.whitened:
        rival, more, outcome = along_ridges(model, q, family)
        used += more
    if rival is None and outcome != UNBOUNDED and report.status == CONVERGED and not is_local:
        spent = max(report.evaluations, _SPENT + _SPENT_EACH * model.latent_dim)
        rival, more, _ = rival_of(model, family, q, report.elbo, report.error, spent)
        used += more
    return Rival(rival, used, outcome)


def _draws_fit(
    model: Model,
    family: str,
    start: Any,
    rtol: float,
    max_steps: int,
    draws: int | None,
    rng: Any,
    rank: int | None,
) -> LatentFit:
    """The fit from a start, on fixed draws, whose number is doubled until fresh draws confirm the ELBO."""
    r = model.latent_dim
    thin = None
    if family == LOW_RANK:
        begin = choose_start(model, start, "full")
        thin = low_rank_start(begin, rank)
    elif r > DRAWS_DIM:
        begin = wide_start(model, start)
        thin = begin.scale[None]
    else:
        begin = choose_start(model, start, family)
    narrower = _NARROWED if start is None and thin is None else 0
    fits = _FixedDraws(model, family, begin, max_steps, thin, narrower)
    pairs, few = _first_pairs(family, r, draws), max(_FEW_PAIRS, r)
    # Where calls are expensive, more draws in each save some; differences of as many take several calls.
    expensive = model._calls_are_expensive and bool(model._slopes_address)
    if draws is None and expensive:
        pairs = min(max(pairs, _PAIRS_IN_A_CALL), max(_MOST_PAIRS_IN_A_CALL, r))
    if family not in CORRELATED and family != LOW_RANK:
        fewer = _LEAST_PAIRS if r <= DRAWS_DIM else _FEW_PAIRS_WIDE
        few = few if _mislead(begin, family, fewer) else min(few, fewer)
    usual = pairs
    if draws is None and not expensive and begin.off <= _GAUSSIAN * r:
        pairs = min(pairs, few)
    if draws is None and 2 * few <= pairs and not expensive:
        # Far from the optimum few draws suffice: eight schools takes half of its 20 steps on 24.
        if fits.climb(few, _NEAR).status not in (CONVERGED, UNBOUNDED):
            fits.restart()
        else:
            fits.keep_curvature()
    # Near its maximum an ELBO lacks half the squared length of its gradient.
    rough = max(math.sqrt(rtol), _ROUGH * math.sqrt(max(1.0, r / _ROUGH_DIM)))
    # Directions of V are found slowly: there the ELBO lacks rtol, and no digit of q more is asked for.
    finest = math.sqrt(2.0 * rtol) if family == LOW_RANK else rtol
    wanted, known = rough, None  # known: an expectation, with the ELBO and the entropy there
    lacking = None  # the ELBO over half as many fixed draws, and by how much fresh ones found less
    while True:
        report = fits.climb(pairs, wanted)
        status = int(report.status)
        if pairs < usual and status != CONVERGED:
            fits.restart()
            pairs, wanted, known = usual, rough, None
            continue
        if status == STUCK and fits.spreads_without_end():
            status = UNBOUNDED
        last = draws is not None or 2 * pairs > _MOST_PAIRS or 4 * pairs * r > MOST_NUMBERS
        entropy = fits.gaussian().entropy()
        promised = -math.inf if last else report.elbo - entropy
        if lacking is not None and lacking[0] - report.elbo < _OPTIMISM_LEFT * lacking[1]:
            promised = -math.inf  # no optimism: as many fresh draws as there can be
        if known is not None and abs(report.elbo - known[1]) <= _MOVED and not known[0].exponentials:
            # What the last steps have changed over the fixed draws is what they change.
            changed, expectation = report.elbo - known[1], known[0]
            expectation = expectation._replace(
                value=expectation.value + changed + known[2] - entropy, error=expectation.error + abs(changed)
            )
        else:
            expectation = fits.expectation(promised, rng)
            fits.evaluations += expectation.evaluations
        value, error = expectation.value + entropy, expectation.error
        if expectation.status or status == UNBOUNDED:
            break
        if not overfitted(report.elbo, value, error):
            accurate = 0.5 * wanted**2 <= SHARE_OF_ERROR * error or wanted <= finest
            if accurate or status not in (CONVERGED, STUCK):
                break
            # The curvature is not kept: its pairs of L-BFGS are too inaccurate this close to the optimum.
            wanted = (
                max(finest, math.sqrt(SHARE_OF_ERROR * error)) if expensive or r > _BLOCKS_DIM else finest
            )
            known = expectation, report.elbo, entropy
            continue
        if last:
            status = OVERFITTED
            break
        pairs, known, lacking = 2 * pairs, None, (report.elbo, report.elbo - value)
        fits.keep_curvature()
    small = report.gradient_norm <= rough
    asked = max(rtol * (1.0 + abs(value)), SHARE_OF_ERROR * error)
    if status == STUCK and small and 0.5 * report.gradient_norm**2 <= asked:
        status = CONVERGED  # no nearer for the rounding of the log joint, but as near as was asked
    if status == CONVERGED and fits.best > value + 3.0 * error:
        status = CONTRADICTED
    if status == CONVERGED and not expensive and r <= DRAWS_DIM:
        unseen, used = unseen_gradient(model, fits.mean, fits.factor)
        fits.evaluations += used
        if unseen > _UNSEEN:
            status, report = STUCK, report._replace(gradient_norm=max(report.gradient_norm, unseen))
    rival = logarithms = None
    if status in (CONVERGED, OVERFITTED) and len(fits.factor) == r <= kernels.inference.laplace.DENSE:
        tails = tails_after(model, fits.mean, fits.factor, fits.evaluations)
        fits.evaluations += tails.evaluations
        rival, logarithms = tails.other if tails.rival is None else tails.rival, tails.logarithms
        if status == CONVERGED or tails.status == UNBOUNDED:
            status = tails.status or status
    where = fault_point("draws", fits.space)
    if expectation.status:
        value, error, where = report.elbo, math.inf, expectation.where
        status = status if status == UNBOUNDED else expectation.status
    if model._gradient_address:
        wrong = wrong_gradient(model, fits.mean, fits.factor)
        fits.evaluations += GRADIENT_EVALUATIONS
        if wrong is not None:
            status, where, rival = WRONG_GRADIENT, wrong, None
    trace = np.concatenate(fits.traces)
    report = report._replace(
        elbo=value, error=error, evaluations=fits.evaluations, status=status, steps=trace.size
    )
    report = with_its_error(model, fits.mean, fits.factor, report, rtol)
    return LatentFit(fits.mean, fits.factor, report, trace, where, rival, begin.whitened, logarithms)
