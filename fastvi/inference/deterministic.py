"""Fits by quadrature and on fixed draws: the same result in every run."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.values import Array
from ..distributions.gaussian import Gaussian
from ..distributions.variational import TruncatedGaussian
from ..kernels.families.table import CODES, CORRELATED
from ..kernels.statuses import CONVERGED, OVERFITTED, STUCK
from .expectations import _broken, _draws, _expectation_by_draws, _laplace_fault, _writable
from .kernel_calls import _named, _restricted, _space, _start_scale, _target, _words
from .model import Model
from .results import Fit, _made, _q_of
from .starts import _check_start, _laplace_start, _start_of

#: Pairs of fixed draws to begin with (at least so many, and so many for each dimension), and at most.
_LEAST_PAIRS = 32
_MOST_PAIRS = 8192

#: Pairs for the first part of the way (at least as many as dimensions), and the gradient where it ends.
_FEW_PAIRS = 12
_NEAR = 0.15

#: Gradient tolerance of the first fit on fixed draws; a tighter one is pointless while Monte Carlo error
#: dominates.
_ROUGH = 3e-3

#: Accepted steps that a trace holds.
_TRACE = 256


@lru_cache(maxsize=8)
def _unit(dim: int) -> Array:
    """One unit matrix, to copy: making it takes six times as long."""
    return np.eye(dim)[None]


def _fit_quadrature(model: Model, family: str, start: Any, rtol: float, max_steps: int) -> Fit:
    r = model.latent_dim
    space = _space("fit", r, model.dim)
    mean, factor = _start_of(model, start)
    _check_start(family, factor)
    from_laplace = factor is None
    chols = _unit(r).copy() if factor is None else _restricted(factor, family)[None].copy()
    traces, reports, where = np.empty((1, _TRACE)), np.zeros((1, 8)), np.empty((1, model.dim))
    scales = np.empty((1, r))
    scales.fill(1.0)
    kernels.inference.entry_points.fit_quadrature(
        _target(model),
        CODES[family],
        from_laplace,
        (mean[None], scales, chols),
        rtol,
        max_steps,
        space,
        (traces, reports, where),
        0,
        1,
    )
    report = kernels.inference.reports.Report(*reports[0].tolist())
    return _made(model, family, _q_of(model, mean, chols[0]), report, traces[0], where[0], "quadrature")


def _fit_truncated(model: Model, start: Any, rtol: float, max_steps: int) -> Fit:
    if model.dim != 1:
        raise ValueError(f'family="truncated" needs a model of dimension 1, this one has {model.dim}')
    low, high = model._support.interval
    parameters, used = np.empty((1, 2)), 0
    if isinstance(start, TruncatedGaussian):
        parameters[0] = start.mu, start.sigma
    else:
        # The fit in latent coordinates knows where the posterior is.
        rough = _fit_quadrature(model, "full", start, 1e-3, 50)
        parameters[0] = float(rough.q.mean[0]), math.sqrt(float(rough.q.cov[0, 0]))
        used = rough.evaluations
    traces, reports, where = np.empty((1, _TRACE)), np.zeros((1, 8)), np.empty((1, 1))
    kernels.inference.entry_points.fit_truncated(
        _target(model),
        (low, high),
        parameters,
        rtol,
        max_steps,
        _space("truncated"),
        (traces, reports, where),
        0,
        1,
    )
    report = kernels.inference.reports.Report(*reports[0].tolist())
    report = report._replace(evaluations=report.evaluations + used)
    q = TruncatedGaussian(float(parameters[0, 0]), float(parameters[0, 1]), low, high)
    return _made(model, "truncated", q, report, traces[0], where[0], "quadrature")


def _fit_draws(model: Model, family: str, start: Any, rtol: float, max_steps: int, draws: int | None) -> Fit:
    r = model.latent_dim
    _check_start(family, _start_of(model, start)[1])
    mean, root, scale, used = _laplace_start(model, start)
    code = CODES[family]
    space = _space("draws", code, r, model.dim)
    scratch, draws_ = _named(kernels.inference.draws_fits.Workspace, space), kernels.inference.draws_fits
    point, curvature = scratch.point, scratch.curvature
    point[:] = 0.0
    scale = _start_scale(scale, family)
    pairs = max(_LEAST_PAIRS, (4 if family in CORRELATED else 1) * r)
    if draws is not None:
        if draws < 2 * r:
            raise ValueError(f"draws must be at least 2 x {r}, to match second moments, not {draws!r}")
        pairs = (draws + 1) // 2
    # Far from the optimum a small subset of draws suffices: eight schools takes half of its 20 steps on 24.
    enough, few = pairs, max(_FEW_PAIRS, r)
    if draws is None and 2 * few <= enough:
        pairs = few
    base, q_mean, q_factor = mean.copy(), np.empty(r), np.empty((r, r))
    trace, row = np.empty(_TRACE), np.zeros(8)
    lines: list[Array] = []
    # Half the gradient's square is what the ELBO lacks. The draws' own error is larger, unless they are
    # exact.
    wanted = max(math.sqrt(rtol), _ROUGH)
    while True:
        goal = wanted if pairs >= enough else _NEAR
        kernels.inference.entry_points.fit_draws(
            _target(model),
            code,
            _writable(_draws(0, pairs, r)),
            (base, root, scale),
            (goal, max_steps),
            (q_mean, q_factor, trace, row),
            space,
        )
        report = kernels.inference.reports.Report(*row.tolist())
        used += int(report.evaluations)
        lines.append(trace[: int(report.steps)].copy())
        status = int(report.status)
        if statuses.is_fault(status) and report.steps == 0:
            raise ValueError(f"the fit cannot start: {_words(status, scratch.panel.where)}")
        if pairs < enough:
            pairs = enough
            if status:
                point[:] = 0.0
            else:
                curvature[draws_.BEGIN] = curvature[draws_.KNOWN]
            continue
        promised = report.elbo
        last = draws is not None or 2 * pairs > _MOST_PAIRS
        entropy = Gaussian._from_factor(q_mean, q_factor).entropy()
        hoped = -math.inf if last else promised - entropy
        value, error, more, fault = _expectation_by_draws(model, q_mean, q_factor, hoped)
        used += more
        value += entropy
        if fault:
            break
        if not _broken(promised, value, error):
            if 0.5 * wanted**2 <= 0.01 * error or wanted <= rtol or status not in (CONVERGED, STUCK):
                break
            # What is known of the curvature is left behind: it is too rough so near to the optimum.
            wanted = rtol
            continue
        if last:
            status = OVERFITTED
            break
        pairs *= 2
        curvature[draws_.BEGIN] = curvature[draws_.KNOWN]
    if fault:
        status, value, error = fault, promised, math.inf
    where = _laplace_fault(model, r) if fault else scratch.panel.where
    joined = np.concatenate(lines)
    report = report._replace(elbo=value, error=error, evaluations=used, status=status, steps=joined.size)
    q = _q_of(model, q_mean, q_factor)
    return _made(model, family, q, report, joined, where, "draws (standard error)")
