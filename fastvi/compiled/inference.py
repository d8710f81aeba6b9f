"""ELBO, evidence and fits inside the user's `numba.njit` code.

There `Gaussian`, `GaussianMixture` and `Model` are values that can be made, passed in from Python and
returned to it (a Model only passed in). As with arrays nothing is raised: an invalid argument makes the
result NaN, and `converged` is False. Results have the fields of their Python counterparts, without texts and
traces. A call takes the kernels that Python calls (`external`) and allocates their scratch space, which takes
a fit about 2 µs; `fastvi.kernels` take it from the caller, and are compiled into the user's code.
"""

from __future__ import annotations

from typing import NamedTuple

from numba.core.errors import TypingError

from ..distributions.gaussian import Gaussian
from ..inference import evidence, expectations, fitting
from ..kernels import statuses
from ..kernels.compiler import overloaded
from ..kernels.families.table import CODES, TABLE
from .distributions import CompiledEstimate
from .external import external
from .log_joints import target_of
from .types import GAUSSIAN, TRANSFORMED, ModelType, constant, is_none, make_gaussian, make_transformed


class CompiledFit(NamedTuple):
    """`Fit` in compiled code; `status` is a number of `kernels.statuses`.

    Here no other starts are tried: a fit without `start` has not converged, with the status UNCONFIRMED,
    where the log density has several peaks on lines through q, or q is not close to it; and one from a start,
    where the posterior may be improper. As in Python it has not, and the error is infinite, beside a gap of
    zero density and where the log joint outgrows q far out. Where q has mass so near a bound of its support
    that floats do not tell z from it, the error has what may be lost there, and the status is SATURATED where
    that is large.
    """

    q: Gaussian
    elbo: CompiledEstimate
    gradient_norm: float
    converged: bool
    status: int


#: What contains a log joint is inlined, as in `log_joints`: no other function can be taken for it.
_INLINED = {"forceinline": True}


def _check_model(name, model):
    """Refuse what is no model, or one of a dimension that quadrature cannot deal with."""
    if not isinstance(model, ModelType):
        raise TypingError(f"fastvi.{name} in compiled code takes a Model, not {model}")
    if model.latent > 2:
        raise TypingError(
            f"fastvi.{name} in compiled code is for one or two latent dimensions, not {model.latent}: "
            "call fastvi.kernels.draws.fit_draws"
        )


def _latent_q(model, q):
    """(mean, factor, kinds, bounds) of q; a Gaussian has the support of the model."""
    raise NotImplementedError


@overloaded(_latent_q)
def _overload_latent_q(model, q):
    if q is GAUSSIAN:
        return lambda model, q: (q.mean, q.cholesky, model._kinds, model._bounds)
    return lambda model, q: (q._mean, q._cholesky, q._kinds, q._bounds)


def _q_of(model, mean, factor):
    """q as in Python: transformed to the support where that is not the real line."""
    raise NotImplementedError


@overloaded(_q_of)
def _overload_q_of(model, mean, factor):
    if model.real:
        return lambda model, mean, factor: make_gaussian((mean, factor))
    return lambda model, mean, factor: make_transformed((mean, factor, model._kinds, model._bounds))


def _bound(model, q):
    """The kernel of the ELBO, and whether q has mass where the joint is zero."""
    _check_model("elbo", model)
    if q not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.elbo in compiled code takes a Gaussian or a TransformedGaussian as q, not {q}"
        )
    return external("compiled.operations.elbo"), q is GAUSSIAN and not model.real


@overloaded(expectations.elbo, jit_options=_INLINED)
def _elbo(model, q, rtol=1e-10):
    run, outside = _bound(model, q)
    dim, target = model.dim, target_of(model)

    def compiled(model, q, rtol=1e-10):
        value, error, evaluations, _, _ = run((target(model), dim, _latent_q(model, q), outside, float(rtol)))
        return CompiledEstimate(value, error, evaluations)

    return compiled


@overloaded(expectations.elbo_grad, jit_options=_INLINED)
def _elbo_grad(model, q, rtol=1e-10):
    run, outside = _bound(model, q)
    dim, target, gradient = model.dim, target_of(model), expectations.Gradient

    def compiled(model, q, rtol=1e-10):
        value, _, _, grad_mean, grad_chol = run(
            (target(model), dim, _latent_q(model, q), outside, float(rtol))
        )
        return gradient(value, grad_mean, grad_chol)

    return compiled


@overloaded(fitting.fit, prefer_literal=True, jit_options=_INLINED)
def _fit(
    model,
    family="full",
    start=None,
    method="auto",
    starts=None,
    rtol=1e-8,
    max_steps=500,
):
    _check_model("fit", model)
    code = constant("fit", "family", family, CODES)
    constant("fit", "method", method, {"auto": 0})
    if not is_none(starts):
        raise TypingError("fastvi.fit in compiled code takes one start: call it for each, and keep the best")
    if not is_none(start) and start not in (GAUSSIAN, TRANSFORMED):
        raise TypingError(
            f"fastvi.fit in compiled code starts from a Gaussian in latent coordinates, not {start}"
        )
    name = TABLE[code].name
    if TABLE[code].held and is_none(start):
        raise TypingError(
            f"fastvi.fit: family={name!r} holds the covariance of the start: give a Gaussian as start"
        )
    dim, target = model.dim, target_of(model)
    fit, fit_from = external("compiled.operations.fit"), external("compiled.operations.fit_from")

    def near_zero(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        return _made(model, fit((target(model), dim, code, float(rtol), max_steps)))

    def from_start(
        model,
        family="full",
        start=None,
        method="auto",
        starts=None,
        rtol=1e-8,
        max_steps=500,
    ):
        mean, factor, _, _ = _latent_q(model, start)
        return _made(model, fit_from((target(model), dim, code, mean, factor, float(rtol), max_steps)))

    return near_zero if is_none(start) else from_start


def _made(model, found):
    """The result of a fit."""
    raise NotImplementedError


@overloaded(_made)
def _overload_made(model, found):
    def compiled(model, found):
        mean, factor, value, error, evaluations, gradient_norm, status = found
        q, estimate = _q_of(model, mean, factor), CompiledEstimate(value, error, evaluations)
        return CompiledFit(q, estimate, gradient_norm, status == statuses.CONVERGED, status)

    return compiled


@overloaded(evidence.log_evidence, jit_options=_INLINED)
def _log_evidence(model, start=None, rtol=1e-10):
    """The value, the error and the number of nodes are those of Python: it takes the same kernels.

    A log joint that is NaN or +inf, or that raises, makes the value NaN and the error infinite.
    """
    _check_model("log_evidence", model)
    if not is_none(start):
        raise TypingError(
            "fastvi.log_evidence in compiled code searches for modes from 0 of the latent coordinates"
        )
    run = external("compiled.operations.log_evidence")
    dim, target = model.dim, target_of(model)

    def compiled(model, start=None, rtol=1e-10):
        value, error, evaluations = run((target(model), dim, float(rtol)))
        return CompiledEstimate(value, error, evaluations)

    return compiled
