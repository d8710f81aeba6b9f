"""The log densities of `fastvi.densities` inside the user's `numba.njit` code.

Those of numbers and vectors are compiled into the user's function, whose loops they share; those of arrays
of outcomes are one loop each. Of dual numbers (`kernels.numerics.duals`) the result is one as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError

from .. import densities as api
from .. import kernels
from ..kernels.compiler import overloaded
from .types import is_none

_NUMBERS = types.Integer | types.Float | types.Boolean

# Numbers become floats by 1.0 * x: numba has no float of a boolean.


def _is_number(kind: Any) -> bool:
    return isinstance(types.unliteral(kind), _NUMBERS)


def _is_array(kind: Any, ndim: int = 1) -> bool:
    return isinstance(kind, types.Array) and kind.ndim == ndim and isinstance(kind.dtype, _NUMBERS)


def _has_duals(*kinds: Any) -> bool:
    """Whether one of these is the type of dual numbers, which is loaded when there are some."""
    return any(getattr(kind, "holds_duals", False) for kind in kinds)


def _is_like(kind: Any, ndim: int) -> bool:
    """Whether this is a number (ndim = 0) or array, dual or not."""
    if _has_duals(kind):
        return getattr(kind, "ndim", 0) == ndim
    return _is_array(kind, ndim) if ndim else _is_number(kind)


def _dual(name: str, wanted: str, kinds: Sequence[Any], *allowed: Sequence[int]) -> Any:
    """The kernel for dual numbers, where each argument has one of the numbers of axes that are allowed."""
    if not all(any(_is_like(kind, n) for n in axes) for kind, axes in zip(kinds, allowed, strict=True)):
        raise _refused(name, wanted, *kinds)
    return getattr(kernels.densities.dual_densities, name)


def _refused(name: str, wanted: str, *kinds: Any) -> TypingError:
    return TypingError(
        f"fastvi.densities.{name} in compiled code takes {wanted}, not {', '.join(map(str, kinds))}"
    )


def _chosen(name: str, x: Any, *parameters: Any) -> tuple[Any, Any]:
    """(the kernel for arguments of these types, what it takes of the parameters, or None for them all)."""
    if _has_duals(x, *parameters):
        return _chosen_for_duals(name, x, *parameters), None
    for kind in (x, *parameters):
        if not (_is_number(kind) or _is_array(kind)):
            raise _refused(name, "numbers and 1-D arrays of numbers", x, *parameters)
    found = kernels.densities.log_densities.KERNELS[name]
    if all(map(_is_number, parameters)):
        return (found.value, None) if _is_number(x) else (found.over_x, found.prepare)
    return found.over_all, None


def _chosen_for_duals(name: str, *kinds: Any) -> Any:
    rows = kernels.densities.dual_densities
    if not all(_is_like(kind, 0) or _is_like(kind, 1) for kind in kinds):
        raise _refused(name, "numbers and 1-D arrays of numbers", *kinds)
    if _has_duals(*kinds[: rows.INTEGERS.get(name, 0)]):
        raise _refused(name, "integers that are data", *kinds)
    found = rows.KERNELS[name]
    if all(_is_like(kind, 0) for kind in kinds):
        return found.one
    return found.over_x if all(_is_like(kind, 0) for kind in kinds[1:]) else found.over_all


def _of_one(name: str) -> Any:
    def typed(x, a):
        run, prepare = _chosen(name, x, a)
        if prepare is not None:
            return lambda x, a: run(x, prepare(1.0 * a))
        if _is_number(x) and _is_number(a):
            return lambda x, a: run(1.0 * x, 1.0 * a)
        return lambda x, a: run(x, a)

    return typed


def _of_two(name: str) -> Any:
    def typed(x, a, b):
        run, prepare = _chosen(name, x, a, b)
        if prepare is not None:
            return lambda x, a, b: run(x, prepare(1.0 * a, 1.0 * b))
        if all(map(_is_number, (x, a, b))):
            return lambda x, a, b: run(1.0 * x, 1.0 * a, 1.0 * b)
        return lambda x, a, b: run(x, a, b)

    return typed


def _of_three(name: str) -> Any:
    def typed(x, a, b, c):
        run, prepare = _chosen(name, x, a, b, c)
        if prepare is not None:
            return lambda x, a, b, c: run(x, prepare(1.0 * a, 1.0 * b, 1.0 * c))
        if all(map(_is_number, (x, a, b, c))):
            return lambda x, a, b, c: run(1.0 * x, 1.0 * a, 1.0 * b, 1.0 * c)
        return lambda x, a, b, c: run(x, a, b, c)

    return typed


#: The densities whose x is a number or an array of numbers, by the number of their parameters.
_SUMMED = {
    _of_one: "half_normal half_cauchy exponential poisson_log bernoulli_logit",
    _of_two: "normal cauchy laplace half_student_t lognormal gamma inv_gamma beta binomial_logit "
    "neg_binomial_2_log",
    _of_three: "student_t",
}

for _template, _names in _SUMMED.items():
    for _name in _names.split():
        overloaded(getattr(api, _name))(_template(_name))


@overloaded(api.dirichlet)
def _dirichlet(theta, alpha):
    if _has_duals(theta, alpha):
        run = _dual("dirichlet", "1-D arrays", (theta, alpha), [1], [1])
        return lambda theta, alpha: run(theta, alpha)
    if not (_is_array(theta) and _is_array(alpha)):
        raise _refused("dirichlet", "1-D arrays", theta, alpha)
    run = kernels.densities.log_densities.dirichlet
    return lambda theta, alpha: run(theta, alpha)


@overloaded(api.multi_normal_cholesky)
def _multi_normal_cholesky(x, mu, factor):
    if _has_duals(x, mu, factor):
        wanted = "arrays (D,) or (N, D), (D,) and (D, D)"
        run = _dual("multi_normal_cholesky", wanted, (x, mu, factor), [1, 2], [1], [2])
        return lambda x, mu, factor: run(x, mu, factor)
    if not ((_is_array(x) or _is_array(x, 2)) and _is_array(mu) and _is_array(factor, 2)):
        raise _refused("multi_normal_cholesky", "arrays (D,) or (N, D), (D,) and (D, D)", x, mu, factor)
    run = kernels.densities.log_densities.multi_normal_cholesky
    if x.ndim == 2:
        return lambda x, mu, factor: run(x, mu, factor)
    return lambda x, mu, factor: run(np.expand_dims(x, 0), mu, factor)


@overloaded(api.lkj_corr_cholesky)
def _lkj_corr_cholesky(factor, eta):
    if _has_duals(factor, eta):
        run = _dual("lkj_corr_cholesky", "an array (K, K) and a number", (factor, eta), [2], [0])
        return lambda factor, eta: run(factor, eta)
    if not (_is_array(factor, 2) and _is_number(eta)):
        raise _refused("lkj_corr_cholesky", "an array (K, K) and a number", factor, eta)
    run = kernels.densities.log_densities.lkj_corr_cholesky
    return lambda factor, eta: run(factor, 1.0 * eta)


@overloaded(api.categorical_logit)
def _categorical_logit(y, beta):
    if _has_duals(beta) and not _has_duals(y):
        name = "categorical_logit" if _is_array(y) else "categorical_logit_1"
        run = _dual(name, "a number or a 1-D array, and a 1-D array", (y, beta), [0, 1], [1])
        return lambda y, beta: run(y, beta)
    if not ((_is_number(y) or _is_array(y)) and _is_array(beta)):
        raise _refused("categorical_logit", "a number or a 1-D array, and a 1-D array", y, beta)
    if _is_array(y):
        run = kernels.densities.log_densities.categorical_logit
        return lambda y, beta: run(y, beta)
    one = kernels.densities.log_densities.categorical_logit_1
    normaliser = kernels.densities.log_densities.log_sum_exp
    return lambda y, beta: one(1.0 * y, beta, normaliser(beta))


@overloaded(api.log_sum_exp)
def _log_sum_exp(x, y=None):
    if _has_duals(x, y) and is_none(y):
        run = _dual("log_sum_exp", "a 1-D array or two numbers", (x,), [1])
        return lambda x, y=None: run(x)
    if _has_duals(x, y):
        run = _dual("log_sum_exp_2", "a 1-D array or two numbers", (x, y), [0], [0])
        return lambda x, y=None: run(x, y)
    if _is_array(x) and is_none(y):
        run = kernels.densities.log_densities.log_sum_exp
        return lambda x, y=None: run(x)
    if not (_is_number(x) and _is_number(y)):
        raise _refused("log_sum_exp", "a 1-D array or two numbers", x, y)
    two = kernels.densities.log_densities.log_sum_exp_2
    return lambda x, y=None: two(1.0 * x, 1.0 * y)


@overloaded(api.log_mix)
def _log_mix(theta, x, y=None):
    if _has_duals(theta, x, y) and is_none(y):
        run = _dual("log_mix", "two 1-D arrays or three numbers", (theta, x), [1], [1])
        return lambda theta, x, y=None: run(theta, x)
    if _has_duals(theta, x, y):
        run = _dual("log_mix_2", "two 1-D arrays or three numbers", (theta, x, y), [0], [0], [0])
        return lambda theta, x, y=None: run(theta, x, y)
    if _is_array(theta) and _is_array(x) and is_none(y):
        run = kernels.densities.log_densities.log_mix
        return lambda theta, x, y=None: run(theta, x)
    if not all(map(_is_number, (theta, x, y))):
        raise _refused("log_mix", "two 1-D arrays or three numbers", theta, x, y)
    two = kernels.densities.log_densities.log_mix_2
    return lambda theta, x, y=None: two(1.0 * theta, 1.0 * x, 1.0 * y)


@overloaded(api.cholesky)
def _cholesky(matrix):
    if not _is_array(matrix, 2):
        raise _refused("cholesky", "an array (D, D)", matrix)
    run = kernels.densities.log_densities.cholesky
    return lambda matrix: run(matrix)
