"""Fits by stochastic gradients, for those who want them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.progress import bar
from ..common.validation import generator
from ..common.values import Array
from ..distributions.integrals import Estimate
from ..kernels.families.table import CODES
from .expectations import _elbo
from .kernel_calls import _named, _space, _start_scale, _target, _words
from .model import Model
from .results import Fit, _q_of
from .starts import _check_start, _laplace_start, _start_of

#: Groups that the steps are cut into: one number of the trace, and one move of the progress bar, for each.
_GROUPS = 100


def _begin(model: Model, family: str, start: Any) -> tuple[Array, Array, Array, int]:
    """(mean, factor, deviations, evaluations): q as given, or Laplace's approximation."""
    _check_start(family, _start_of(model, start)[1])
    mean, factor, scale, used = _laplace_start(model, start)
    return mean, factor, _start_scale(scale, family), used


def fit_sgd(
    model: Model,
    family: str,
    start: Any,
    draws: int | None,
    rng: Any,
    steps: int,
    rate: float,
    progress: bool,
) -> Fit:
    """`fastvi.fit` with ``method="sgd"``; the arguments have been checked there, but for these."""
    each = 10 if draws is None else draws
    if each < 1:
        raise ValueError(f"draws must be at least 1, not {draws!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps!r}")
    if not 0.0 < rate < float("inf"):
        raise ValueError(f"rate must be positive and finite, not {rate!r}")
    r = model.latent_dim
    base, root, scale, used = _begin(model, family, start)
    code = CODES[family]
    space = _space("draws", code, r, model.dim)
    named = _named(kernels.inference.draws_fits.Workspace, space)
    point, first, second, total = np.zeros((4, named.point.size))
    source = generator("rng", rng)
    edges = np.linspace(0, steps, min(_GROUPS, steps) + 1).astype(int)
    trace: list[float] = []
    status, kept, taken = 0, np.zeros(point.size), 0
    for low, high in bar(list(itertools.pairwise(edges)), progress, "steps"):
        if low < steps // 2 <= high or steps == 1:
            kept, taken = total.copy(), int(low)
        before = point.copy()
        noise = source.standard_normal((high - low, each, r))
        status, value, more = kernels.inference.entry_points.sgd_steps(
            _target(model),
            code,
            noise,
            low + 1,
            rate,
            (base, root, scale),
            (point, first, second, total),
            space,
        )
        used += more
        if status:
            point[:] = before
            break
        trace.append(value)
        taken_to = int(high)
    if status and not trace:
        raise ValueError(f"the fit cannot start: {_words(status, named.panel.where)}")
    if not status and taken_to > taken:
        point = np.ascontiguousarray((total - kept) / (taken_to - taken))
    mean, factor = np.empty(r), np.empty((r, r))
    kernels.inference.entry_points.unpack(code, point, (base, root, scale), mean, factor)
    q = _q_of(model, mean, factor)
    try:
        bound = _elbo(model, q, 1e-8)
    except ValueError as error:
        bound = Estimate(float("nan"), float("inf"), 0, "draws (standard error)", note=str(error))
    words = _words(status, named.panel.where) if status else statuses.ALL_STEPS_TAKEN
    return Fit(
        model=model,
        family=family,
        q=q,
        elbo=bound,
        trace=np.array(trace),
        gradient_norm=float("nan"),
        evaluations=used + bound.evaluations,
        status=words,
        converged=False,
        starts=(bound.value,),
    )
