"""Fits by stochastic gradients, for those who want them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from . import kernels
from .distributions import Array
from .estimates import Estimate
from .inference import (
    _FAMILIES,
    _FAULT,
    Fit,
    _arguments,
    _elbo,
    _laplace_start,
    _q_of,
    _space,
    _start_of,
    _words,
)
from .models import Model
from .progress import bar
from .validation import generator

#: Groups that the steps are cut into: one number of the trace, and one move of the progress bar, for each.
_GROUPS = 100


def _begin(model: Model, family: str, start: Any) -> tuple[Array, Array, Array]:
    """(mean, factor, deviations): q as given, or Laplace's approximation."""
    mean, factor, scale, _ = _laplace_start(model, start)
    if family == "mean" and _start_of(model, start)[1] is None:
        raise ValueError('family="mean" holds the covariance of the start: give a Gaussian as start')
    if family == "isotropic":
        scale = np.full(scale.size, np.sqrt(scale.size / (1.0 / scale**2).sum()))
    return mean, factor, scale


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
    """`fastvi.fit` with ``method="sgd"``; the arguments have been looked at there, but for these."""
    each = 10 if draws is None else draws
    if each < 1:
        raise ValueError(f"draws must be at least 1, not {draws!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps!r}")
    if not 0.0 < rate < float("inf"):
        raise ValueError(f"rate must be positive and finite, not {rate!r}")
    r = model.latent_dim
    base, root, scale = _begin(model, family, start)
    code = _FAMILIES[family]
    space = _space("draws", code, r, model.dim)
    count = space[1][0].shape[1]
    state, average = np.zeros((3, count)), np.zeros(count)
    source = generator("rng", rng)
    edges = np.linspace(0, steps, min(_GROUPS, steps) + 1).astype(int)
    trace: list[float] = []
    status, kept, taken = 0, np.zeros(count), 0
    for low, high in bar(list(itertools.pairwise(edges)), progress, "steps"):
        if low < steps // 2 <= high or steps == 1:
            kept, taken = average.copy(), int(low)
        before = state[0].copy()
        noise = source.standard_normal(((high - low) * each, r))
        status, value = kernels.engine.sgd_steps(
            model._address,
            model._gradient_address,
            *_arguments(model)[1:],
            code,
            noise,
            each,
            low + 1,
            rate,
            base,
            root,
            scale,
            state,
            average,
            space,
        )
        if status:
            state[0] = before
            break
        trace.append(value)
        taken_to = int(high)
    if status and not trace:
        raise ValueError(f"the fit cannot start: {_words(_FAULT + status, space[0][3])}")
    point = (average - kept) / (taken_to - taken) if not status and taken_to > taken else state[0]
    mean, factor = np.empty(r), np.empty((r, r))
    kernels.engine.unpack(code, np.ascontiguousarray(point), base, root, scale, mean, factor)
    q = _q_of(model, mean, factor)
    try:
        bound = _elbo(model, q, 1e-8)
    except ValueError as error:
        bound = Estimate(float("nan"), float("inf"), 0, "draws (standard error)", note=str(error))
    words = _words(_FAULT + status, space[0][3]) if status else "all steps taken (no stopping rule)"
    cost = each * (1 if model._gradient_address else 2 * r + 1)
    return Fit(
        model=model,
        family=family,
        q=q,
        elbo=bound,
        trace=np.array(trace),
        gradient_norm=float("nan"),
        evaluations=int(steps * cost + bound.evaluations),
        status=words,
        converged=False,
        starts=(bound.value,),
    )
