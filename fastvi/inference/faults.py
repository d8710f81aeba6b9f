"""What went wrong in a log joint, in words: where, by which exception, and what helps."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..common import statuses
from ..common.values import Array, tidy
from ..kernels.statuses import RAISED, WRONG_GRADIENT, ZERO
from .diagnostics import wrong_gradient
from .kernel_calls import workspace, workspace_member
from .model import Model

#: A coordinate is near a bound within this share of 1 + abs(bound).
_NEAR = 1e-6

#: Coordinates that a message names for being near a bound.
_NAMED = 8

_DECLARE = (
    'q has mass there, so its ELBO is -inf. Declare the support (support="positive", ("lower", a), ...): '
    'then q is Gaussian in transformed coordinates, or family="truncated" cuts it off'
)

#: What helps where the log joint is -inf inside of a support that is not the whole line.
_INSIDE = "q has mass there, so its ELBO is -inf. The log joint must be finite inside of the support"


def _place(model: Model, z: Array) -> str:
    """A point, with the coordinates that are at a bound of the support or near it."""
    near = [
        f"z[{i}] = {z[i]!s} is {'at' if z[i] == bound else 'near'} {bound:g}"
        for i, bound in model._support.ends()
        if abs(z[i] - bound) <= _NEAR * (1.0 + abs(bound))
    ]
    more = f", and {len(near) - _NAMED} more" if len(near) > _NAMED else ""
    return f"at z = {tidy(z)}" + (f" ({', '.join(near[:_NAMED])}{more})" if near else "")


def exception_at(model: Model, z: Array) -> Exception | None:
    """The exception that the log joint or its gradient raises at a point."""
    model._raise_pending()
    try:
        model._raise_at(z, with_gradient=True)
    except Exception as error:
        return error
    return None


def words(model: Model, status: int, where: Array, cause: Exception | None = None) -> str:
    """A status of a fit in words; of a fault of the log joint with the point, the `cause` and what helps."""
    if status == WRONG_GRADIENT:
        return f"{statuses.WORDS[status]} (check_gradient(model, {tidy(where)}))"
    if not statuses.is_fault(status):
        return statuses.WORDS[status]
    what = statuses.WORDS[status]
    if cause is not None:
        what = f"log_joint raised {type(cause).__name__}" + (f" ({cause})" if str(cause) else "")
    text = f"{what} {_place(model, where)}"
    reason = model._reason(where)
    if reason:
        return f"{text}: {reason}"
    if status == ZERO:
        return f"{text}: {_DECLARE if model._support.is_real else _INSIDE}"
    return text


class FaultError(ValueError):
    """A fault of a log joint: its status, and the point z."""

    status: int
    where: Array


def error_of(model: Model, status: int, where: Array, prefix: str = "") -> FaultError:
    """The error for a status, which has the log joint's own exception as its cause."""
    cause = exception_at(model, where) if status == RAISED else None
    error = FaultError(prefix + words(model, status, where, cause))
    error.status, error.where = status, where
    error.__cause__ = cause
    return error


def start_error(model: Model, code: int, start: Any, fault: tuple[int, Array]) -> FaultError:
    """The error of a fit on draws that cannot start, for this (status, point z of the fault).

    A gradient of NaN leads to a point of NaN: then the gradient is named.
    """
    if model._gradient_address:
        r = model.latent_dim
        rank = code - kernels.families.low_rank.FIRST
        mean, factor = np.empty(r), np.empty((r if rank < 0 else 1 + rank, r))
        space = workspace("draws", code, r, model.dim)
        origin = np.zeros_like(workspace_member("draws", space, "point"))
        kernels.inference.entry_points.unpack(code, origin, start, space, mean, factor)
        wrong = wrong_gradient(model, mean, factor)
        if wrong is not None:
            fault = WRONG_GRADIENT, wrong
    return error_of(model, *fault, "the fit cannot start: ")
