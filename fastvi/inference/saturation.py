"""What is not known where latent coordinates lead to numbers that floats do not tell from a bound.

`kernels.inference.saturation` says it, for compiled code and C as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import kernels
from ..common.statuses import is_fault
from ..common.values import Array
from .kernel_calls import panel_space, workspace
from .model import Model, target_of

#: Kinds of coordinates that are exponentials on one side of a bound.
_WITHOUT_END = (kernels.models.kinds.LOWER, kernels.models.kinds.UPPER, kernels.models.kinds.ORDERED)


def elbo_error(model: Model, mean: Array, factor: Array) -> float:
    """What the ELBO of a Gaussian may be off by for that: E_q of the difference to the line.

    The factor is a Cholesky factor, or one of `kernels.families.low_rank`. Nothing is known where z has no
    bound and no float is large enough: it stays where it is, and the Jacobian does not.
    """
    if model._support.is_real:
        return 0.0
    is_far = mean > kernels.models.evaluation.FARTHEST
    if is_far.any() and np.isin(model._support.kinds[is_far], _WITHOUT_END).any():
        return math.inf
    space = workspace("laplace", mean.size, model.dim)
    found: float = kernels.inference.entry_points.lost_at_bounds(target_of(model), mean, factor, space)
    model._raise_pending()
    return found


def with_its_error(model: Model, mean: Array, factor: Array, report: Any, rtol: float) -> Any:
    """The report of a fit with the error of its ELBO from there, not converged where that is large."""
    if not math.isfinite(report.elbo) or is_fault(report.status):
        return report
    return kernels.inference.saturation.with_lost(report, elbo_error(model, mean, factor), rtol)


def evidence_error(model: Model, mean: Array, value: float) -> float:
    """What the log evidence may be off by for that, by the density on lines through a point."""
    if model._support.is_real or not math.isfinite(value):
        return 0.0
    run = kernels.inference.entry_points
    found: float = run.lost_by_evidence(target_of(model), mean, value, panel_space(model))
    model._raise_pending()
    return found
