"""Fits by quadrature whose start is chosen by the ELBO: in up to two latent dimensions.

Newton's method from Laplace's approximation finds the maximum of the ELBO of a log-concave posterior, which
has no other. Where the log density on lines through q is not concave, and q not close to it, or there is no
such fit, fits from the best of many Gaussians are compared.

Where the log joint raises, is NaN or infinite, the density counts as zero in all searches.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..common.statuses import is_fault
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..kernels.families.table import CODES
from ..kernels.statuses import (
    CONTRADICTED,
    CONVERGED,
    NOT_A_MAXIMUM,
    STEPS_EXHAUSTED,
    STUCK,
    UNBOUNDED,
    UNCONFIRMED,
    UNRESOLVED,
    WRONG_GRADIENT,
)
from .evidence import log_evidence
from .expectations import fixed_draws, writable
from .improper import has_light_tails, tails_of
from .kernel_calls import densities_or_zero, lattice_space, restricted
from .lockstep import together
from .model import Model, target_of
from .racing import elbo_over
from .starts import ascent, far_start, laplace_by_values, laplace_from

#: Directions in the plane of the points around q where a search begins.
_AROUND = 16

#: Distances of the points around the origin where a search begins, in latent coordinates.
_SCALES = tuple(10.0 ** (k / 3.0) for k in range(-9, 13))

#: On a line four times as many are affordable, and distances: a mode between two of the coarse ones is found,
#: if it is not narrower than a tenth of its distance.
_SCALES_1D = tuple(10.0 ** (k / 12.0) for k in range(-36, 49))

#: Points from which a search for a mode begins, at most, and the dispersed points among those.
_SEARCHES, _DISPERSED, _SEED = 20, 4, 20240303

#: No search begins so near a peak that is known, in its deviations.
_UNDER = 3.0

#: Deviations of the Gaussians around a point, as shares of its distance from the origin.
_WIDTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)

#: Where Laplace's approximation fails: the unit of an ascent, and guesses of the deviations at its end, as
#: shares of the point's size.
_CLIMB, _GUESSES = 0.1, (1e-2, 1e-4)

#: Pairs of draws over which the ELBOs of candidates are compared.
_PAIRS = 8

#: Candidates that are fitted; the tolerance and most steps of these fits.
_FITTED, _ROUGH, _ROUGH_STEPS = 6, 1e-3, 100

#: Candidates nearer than so many deviations of another, and as wide up to this factor, are left out.
_NEAR, _AS_WIDE = 0.7, 1.6

#: Where a fit by quadrature ends so, that may be because the posterior is improper.
_INCOMPLETE = STEPS_EXHAUSTED, UNRESOLVED, STUCK, CONTRADICTED

#: Gradient, in the metric of Fisher's information, above which a fit has not converged.
_LEVEL = 1e-2

#: A fit is better than another if its ELBO is higher by more than this share, beyond the errors.
_BETTER = 1e-7


class LatentFit(NamedTuple):
    """What a fit finds, in latent coordinates."""

    mean: Array
    factor: Array
    report: Any
    trace: Array
    where: Array  #: the point of a fault of the log joint
    rival: Gaussian | None = None  #: where another fit should start
    whitened: bool = False  #: whether coordinates had the curvature of a confirmed mode: no ridges
    logarithms: tuple[int, ...] | None = None  #: coordinates that seem to be some, if it is known

    @property
    def leads_on(self) -> bool:
        """Whether a family with more freedom may start here: the fit is no fault, and its ELBO finite."""
        code = int(self.report.status)
        no_start = code in (UNBOUNDED, NOT_A_MAXIMUM, WRONG_GRADIENT) or is_fault(code)
        return not no_start and abs(self.report.elbo) < math.inf


def newton_fit(
    model: Model, family: str, mean: Array, factor: Array | None, rtol: float, max_steps: int
) -> LatentFit:
    """Newton's method from a Gaussian, or from Laplace's approximation near a point."""
    r = model.latent_dim
    means = mean[None].copy()
    chols = _unit(r).copy() if factor is None else restricted(factor, family)[None].copy()
    traces, reports, where = outputs(model.dim)
    scales = np.empty((1, r))
    scales.fill(1.0)
    from_laplace, before = int(factor is None), 0
    if factor is None and model._calls_are_expensive:
        found = laplace_by_values(model, mean)
        before = found.evaluations
        if not found.status:
            from_laplace = kernels.inference.quadrature_fits.KNOWN
            means[0], scales[0], chols[0] = found.mean, found.scale, found.factor
    arguments = target_of(model), CODES[family], from_laplace, (means, scales, chols), rtol, max_steps
    space, results = lattice_space(model), (traces, reports, where)
    # Functions of arrays in Python may warn where the density is evaluated far out.
    quiet = np.errstate(over="ignore", invalid="ignore") if model._calls_are_expensive else _LOUD
    with quiet:
        kernels.inference.entry_points.fit_quadrature(*arguments, space, results, 0, 1)
    report = kernels.inference.reports.Report._make(reports[0].tolist())
    if before:
        report = report._replace(evaluations=report.evaluations + before)
    return LatentFit(means[0], chols[0], report, traces[0], where[0])


_LOUD = contextlib.nullcontext()

#: Entries of a trace: the kernels drop the steps beyond them.
TRACE = 256


@lru_cache(maxsize=8)
def _unit(dim: int) -> Array:
    """A unit matrix (1, dim, dim) to copy: making it takes six times as long."""
    return np.eye(dim)[None]


def outputs(dim: int) -> tuple[Array, Array, Array]:
    """(traces, reports, points of faults) of one fit, for the kernels to write to."""
    return np.empty((1, TRACE)), np.zeros((1, 8)), np.empty((1, dim))


def fit_from_best_start(
    model: Model, family: str, point: Array, rtol: float, max_steps: int, local: bool
) -> LatentFit:
    """The best of the fits from Laplace's approximation near a point and, where need be, from elsewhere.

    With `local` all start near the point.
    """
    first = newton_fit(model, family, point, None, rtol, max_steps)
    return confirmed_fit(model, family, first, point, rtol, max_steps, local)


def confirmed_fit(
    model: Model, family: str, first: LatentFit, point: Array, rtol: float, max_steps: int, local: bool
) -> LatentFit:
    """A fit from Laplace's approximation near a point, or a better one if it is not confirmed."""
    if first.report.status == CONVERGED and _is_fit(first):
        return first
    return or_improper(model, _best_fit(model, family, first, point, rtol, max_steps, local))


def or_improper(model: Model, fit: LatentFit) -> LatentFit:
    """A fit that no kernel has confirmed, with the status UNBOUNDED where the posterior is improper."""
    status, used, improper = fit.report.status, 0, False
    if status == CONVERGED:
        status, used, *_ = tails_of(model, fit.mean, fit.factor, 0)
    elif status in _INCOMPLETE:
        light, used = has_light_tails(model, fit.mean, fit.factor)
        if not light:
            with contextlib.suppress(ValueError):
                improper = log_evidence(model).value == math.inf
    return _with(fit, fit.report.evaluations + used, UNBOUNDED if improper else status)


def _best_fit(
    model: Model, family: str, first: LatentFit, point: Array, rtol: float, max_steps: int, local: bool
) -> LatentFit:
    """The best of a fit from near a point and, where need be and not `local`, of fits from elsewhere."""
    status, evaluations = first.report.status, first.report.evaluations
    if status == UNBOUNDED and not local:
        far, used = _far_fit(model, family, rtol, max_steps)
        return _with(far or first, evaluations + used, CONVERGED if far else status)
    if status == UNCONFIRMED:
        first = _with(first, evaluations, CONVERGED)
    enough = local and status in (UNCONFIRMED, UNRESOLVED)
    if status == UNBOUNDED or (enough and _is_fit(first)):
        return first
    search = _Search(model, family)
    found = search.best(first, point, local)
    evaluations += search.evaluations
    best = first
    if found is not None and found is not first:
        last = newton_fit(model, family, found.mean, found.factor, rtol, max_steps)
        evaluations += last.report.evaluations
        best = last if _is_better(last, first) else first
    status = best.report.status
    if status == CONVERGED and not _is_fit(best):
        status = STUCK
    elif status == CONVERGED and found is not None and _is_visibly_higher(found.report, best.report):
        status = CONTRADICTED
    return _with(best, evaluations, status)


def _far_fit(model: Model, family: str, rtol: float, max_steps: int) -> tuple[LatentFit | None, int]:
    """(A fit from far away where the density is much higher, if one converges, evaluations).

    With t noise and data of 1e6 the density falls off from the origin by powers, and Newton's steps have no
    end.
    """
    place, used = far_start(model)
    if place is None:
        return None, used
    found = fit_from_best_start(model, family, place, rtol, max_steps, True)
    return found if found.report.status == CONVERGED else None, used + int(found.report.evaluations)


def _with(fit: LatentFit, evaluations: float, status: float) -> LatentFit:
    report = fit.report._replace(evaluations=evaluations, status=status)
    return LatentFit(fit.mean, fit.factor, report, fit.trace, fit.where)


def _is_visibly_higher(one: Any, two: Any) -> bool:
    """Whether the ELBO of the first report is higher by more than the errors."""
    return bool(one.elbo - two.elbo > _BETTER * (1.0 + abs(two.elbo)) + one.error + two.error)


def _is_fit(fit: LatentFit) -> bool:
    """Whether there is a q.

    A fit whose steps are rejected because the log joint fails ends at the edge of what q must not see.
    """
    report = fit.report
    if report.status in (UNBOUNDED, NOT_A_MAXIMUM) or is_fault(report.status):
        return False
    at_an_edge = report.status == CONVERGED and not report.gradient_norm <= _LEVEL
    return (
        not at_an_edge
        and abs(report.elbo) < math.inf
        and all(map(math.isfinite, fit.factor.ravel().tolist()))
    )


def _is_better(one: LatentFit, two: LatentFit) -> bool:
    """Whether the first is a better result: by status where the ELBOs do not differ visibly."""
    if not _is_fit(one) or not _is_fit(two):
        return _is_fit(one) and not _is_fit(two)
    if _is_visibly_higher(one.report, two.report) or _is_visibly_higher(two.report, one.report):
        return bool(one.report.elbo > two.report.elbo)
    return bool(one.report.status == CONVERGED and two.report.status != CONVERGED)


class _Candidate(NamedTuple):
    """A Gaussian from which a fit may start."""

    elbo: float
    mean: Array
    factor: Array


class _Search:
    """Gaussians on which the ELBO is high, fits from these, and what they cost."""

    def __init__(self, model: Model, family: str) -> None:
        self.model, self.family = model, family
        self.dim = model.latent_dim
        self.evaluations = 0
        self.noise = writable(fixed_draws(2, _PAIRS, self.dim))
        self.candidates: list[_Candidate] = []

    def best(self, first: LatentFit, point: Array, local: bool) -> LatentFit | None:
        """The best rough fit from the candidates; None where there is none."""
        peaks: list[tuple[Array, Array]] = []
        places: list[tuple[Array, Array]] = []
        for x, search in self.searches([point] if local else self.scan(first), peaks):
            peaks += search()
            places += [(x, width * _size(x) * np.eye(self.dim)) for width in _WIDTHS]
        self.enter([*places, *peaks, *self.over(peaks)])
        rough = [
            partial(newton_fit, self.model, self.family, c.mean, c.factor, _ROUGH, _ROUGH_STEPS)
            for c in self.chosen()
        ]
        fits = list(together(self.model, rough))
        self.evaluations += sum(fit.report.evaluations for fit in fits)
        best = None
        for fit in [first, *fits]:
            if _is_fit(fit) and (best is None or _is_better(fit, best)):
                best = fit
        return best

    def searches(
        self, points: list[Array], peaks: list[tuple[Array, Array]]
    ) -> Iterator[tuple[Array, Callable[[], list[tuple[Array, Array]]]]]:
        """Points, none under a peak that is known by then, and what finds the peak from there.

        Where calls are expensive no search waits for those before it.
        """
        if self.model._calls_are_expensive:
            points = points[:_SEARCHES]
            found = together(self.model, [partial(self.peak, x) for x in points])
            yield from zip(points, [partial(list, peak) for peak in found], strict=True)
            return
        searches = 0
        for x in points:
            if any(np.abs(np.linalg.solve(f, x - m)).max() < _UNDER for m, f in peaks):
                continue
            searches += 1
            if searches > _SEARCHES:
                break
            yield x, partial(self.peak, x)

    def peak(self, x: Array) -> list[tuple[Array, Array]]:
        """Laplace's approximation (mean, factor) from a point; or none."""
        found, size = laplace_from(self.model, x), _size(x)
        self.evaluations += found.evaluations
        if found.status:
            # The log joint fails a step away: climb without differences over so long steps.
            top = ascent(self.model, x, np.full(self.dim, _CLIMB * size))
            self.evaluations += top.evaluations
            for guess in _GUESSES:
                found = laplace_from(self.model, top.end, guess * size)
                self.evaluations += found.evaluations
                if not found.status:
                    break
        fine = not found.status and np.isfinite(found.factor).all() and np.isfinite(found.mean).all()
        return [(found.mean, found.factor)] if fine else []

    def over(self, peaks: list[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
        """Gaussians that cover all modes: with the moments of the mixture of the peaks."""
        apart: list[tuple[Array, Array]] = []
        for mean, factor in peaks:
            if not any(np.abs(np.linalg.solve(f, mean - m)).max() < _NEAR for m, f in apart):
                apart.append((mean, factor))
        if len(apart) < 2:
            return
        means, factors = (np.array(parts) for parts in zip(*apart, strict=True))
        with np.errstate(over="ignore", invalid="ignore"):
            covs = np.einsum("kil,kjl->kij", factors, factors)
        heights = densities_or_zero(self.model, means)
        masses = heights + np.log(np.einsum("kii->ki", factors)).sum(axis=1)
        if not (np.isfinite(covs).all() and np.isfinite(masses.max())):
            return  # a factor that grew without bound, or no density
        for power in (1.0, 0.5):
            weights = np.exp(power * (masses - masses.max()))
            weights /= weights.sum()
            mean = weights @ means
            cov = np.einsum("k,kij->ij", weights, covs) + (weights[:, None] * (means - mean)).T @ (
                means - mean
            )
            with contextlib.suppress(np.linalg.LinAlgError):
                yield mean, np.linalg.cholesky(cov)

    def enter(self, places: list[tuple[Array, Array]]) -> None:
        """Make Gaussians candidates, as far as their ELBOs over some draws are finite."""
        places = [(mean, restricted(factor, self.family)) for mean, factor in places]
        tasks = [partial(elbo_over, self.model, *place, self.noise) for place in places]
        self.evaluations += len(places) * len(self.noise)
        for place, (value, _, fault) in zip(places, together(self.model, tasks), strict=True):
            if fault is None:
                self.candidates.append(_Candidate(value, *place))

    def chosen(self) -> list[_Candidate]:
        """The best candidates, no two of them much alike."""
        chosen: list[_Candidate] = []
        for one in sorted(self.candidates, key=lambda c: -c.elbo):
            if not any(_is_like(one, other) for other in chosen):
                chosen.append(one)
            if len(chosen) == _FITTED:
                break
        return chosen

    def scan(self, first: LatentFit) -> list[Array]:
        """Points where the density is high, around the origin and around q, and some dispersed ones."""
        directions, line = _directions(self.dim), self.dim == 1
        scales, distances = (_SCALES_1D if line else _SCALES), kernels.inference.confirmation.DISTANCES
        if line:
            distances = tuple(np.geomspace(distances[0], distances[-1], 4 * len(distances)).tolist())
        tops = self.tops(np.stack([s * directions for s in scales]), -math.inf)
        if _is_fit(first):
            # At q's mean is a mode, or it is found from the origin.
            around = [first.mean + s * directions @ first.factor.T for s in distances]
            tops += self.tops(np.stack(around), math.inf)
        tops.sort(key=lambda top: -top[0])
        rng = np.random.default_rng((_SEED, self.dim))
        dispersed = rng.standard_normal((_DISPERSED, self.dim)) * np.array([[1.0], [1.0], [4.0], [4.0]])
        return [np.zeros(self.dim), *dispersed, *(x for _, x in tops)]

    def tops(self, rays: Array, within: float) -> list[tuple[float, Array]]:
        """(log density, point) where it is higher than at the neighbours on the same ray (n, rays, dim).

        `within` stands for the density at the beginning of each ray.
        """
        flat = rays.reshape(-1, self.dim)
        with np.errstate(over="ignore", invalid="ignore"):
            values = densities_or_zero(self.model, flat).reshape(rays.shape[:2])
        self.evaluations += len(flat)
        before = np.concatenate([np.full_like(values[:1], within), values[:-1]])
        after = np.concatenate([values[1:], np.full_like(values[:1], -math.inf)])
        high = (values > -math.inf) & (values >= before) & (values >= after)
        return list(zip(values[high].tolist(), rays[high], strict=True))


def _size(x: Array) -> float:
    """The size of a point's coordinates."""
    return float(np.abs(x).max()) or 1.0


@lru_cache(maxsize=2)
def _directions(dim: int) -> Array:
    """Unit vectors in which a search goes."""
    if dim == 1:
        return np.array([[1.0], [-1.0]])
    angles = np.arange(_AROUND) * (2.0 * math.pi / _AROUND)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _is_like(one: _Candidate, other: _Candidate) -> bool:
    """Whether two candidates probably lead to the same maximum."""
    apart = np.abs(np.linalg.solve(other.factor, one.mean - other.mean)).max()
    ratio = np.diag(one.factor) / np.diag(other.factor)
    return bool(apart < _NEAR and (ratio < _AS_WIDE).all() and (ratio > 1.0 / _AS_WIDE).all())
