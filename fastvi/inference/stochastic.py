"""Fits by stochastic gradients: `fit` with method="sgd"."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.progress import bar
from ..common.validation import generator
from ..distributions.integrals import Estimate
from ..kernels.families.table import CODES
from ..kernels.statuses import WRONG_GRADIENT
from .diagnostics import GRADIENT_EVALUATIONS, wrong_gradient
from .expectations import BY_DRAWS, elbo_estimate
from .faults import exception_at, start_error
from .faults import words as fault_words
from .kernel_calls import fault_point, start_scale, workspace, workspace_member
from .model import Model, target_of
from .racing import choose_start
from .results import Fit, q_of

#: Groups of steps: each gives one entry of the trace and one move of the progress bar.
_GROUPS = 100

#: Draws for each step.
_DRAWS = 10

#: Relative tolerance of the ELBO of the result.
_ELBO_RTOL = 1e-8


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
    """The fit of a Gaussian by Adam: the average of the last half of the iterates."""
    each = _DRAWS if draws is None else draws
    r = model.latent_dim
    base, root, scale, used, *_ = choose_start(model, start, family)
    scale = start_scale(scale, family)
    code = CODES[family]
    space = workspace("draws", code, r, model.dim)
    point, first_moment, second_moment, total = np.zeros((4, workspace_member("draws", space, "point").size))
    source = generator("rng", rng)
    edges = np.linspace(0, steps, min(_GROUPS, steps) + 1).astype(int)
    trace: list[float] = []
    # The average is over the iterates after these steps, whose sum is subtracted from the total.
    status, lost, early_total, early_steps = 0, False, np.zeros(point.size), 0
    for low, high in bar(list(itertools.pairwise(edges)), progress, "steps"):
        if low < steps // 2 <= high or steps == 1:
            early_total, early_steps = total.copy(), int(low)
        before = point.copy()
        noise = source.standard_normal((high - low, each, r))
        status, value, more = kernels.inference.entry_points.sgd_steps(
            target_of(model, gradient=True),
            code,
            noise,
            low + 1,
            rate,
            (base, root, scale),
            (point, first_moment, second_moment, total),
            space,
        )
        used += more
        lost = not np.isfinite(point).all()
        if status or lost:
            point[:] = before
            break
        trace.append(value)
        done = int(high)
    if status and not trace:
        raise start_error(model, code, (base, root, scale), (status, fault_point("draws", space)))
    if not (status or lost) and done > early_steps:
        point = np.ascontiguousarray((total - early_total) / (done - early_steps))
    mean, factor = np.empty(r), np.empty((r, r))
    kernels.inference.entry_points.unpack(code, point, (base, root, scale), space, mean, factor)
    q = q_of(model, mean, factor)
    try:
        bound = elbo_estimate(model, q, _ELBO_RTOL)
    except ValueError as error:
        bound = Estimate(float("nan"), float("inf"), 0, BY_DRAWS, note=str(error))
    words, wrong = statuses.ALL_STEPS_TAKEN, None
    if model._gradient_address:
        wrong = wrong_gradient(model, mean, factor)
        used += GRADIENT_EVALUATIONS
    if wrong is not None:
        words = fault_words(model, WRONG_GRADIENT, wrong)
    elif status:
        where = fault_point("draws", space)
        words = fault_words(model, status, where, exception_at(model, where))
    elif lost:
        words = statuses.STEP_NOT_FINITE
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
