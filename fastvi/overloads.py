"""The public functions inside the user's own `numba.njit` code: one name, one meaning, both worlds.

There a distribution is a contiguous 1-D array, and the keywords that change the computation are compile-time
constants. Nothing is raised: invalid input gives NaN, so that one bad item in a `prange` marks that item
and no other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from . import divergences as api
from . import kernels
from .kernels.borrowing import borrow
from .validation import MASSES


def _constant(name: str, keyword: str, value: Any, allowed: dict[Any, Any]) -> Any:
    """The value of a keyword that must be known when the user's function is compiled."""
    value = getattr(value, "literal_value", value)
    value = getattr(value, "value", value)  # types.Omitted
    if isinstance(value, types.Boolean | types.UnicodeType | types.Integer):
        raise TypingError(f"fastvi.{name}: {keyword} must be a constant in compiled code")
    if value not in allowed:
        wanted = ", ".join(map(repr, allowed))
        raise TypingError(f"fastvi.{name}: {keyword} must be one of {wanted}, not {value!r}")
    return allowed[value]


def _check_arrays(name: str, *arrays: Any) -> None:
    for array in arrays:
        if (
            not isinstance(array, types.Array)
            or array.ndim != 1
            or array.layout != "C"
            or array.dtype not in (types.float64, types.float32)
        ):
            raise TypingError(
                f"fastvi.{name} in compiled code takes contiguous 1-D arrays of float64 or float32, "
                f"not {array}"
            )
    if len({array.dtype for array in arrays}) > 1:
        raise TypingError(f"fastvi.{name} in compiled code takes arrays of one dtype, not {arrays}")


def _no_keywords(name: str, axis: Any, keepdims: Any) -> None:
    _constant(name, "axis", axis, {-1: None, 0: None})
    _constant(name, "keepdims", keepdims, {False: None})


def _pick(name: str, kernel: str, log: Any) -> Any:
    both = kernels.divergences.KERNELS[kernel]
    return _constant(name, "log", log, {False: both.inner or both.whole, True: both.log})


def _unit(base: Any, rooted: bool = False) -> Any:
    """A function that gives the number of nats in one unit, for the type of `base`."""
    if base is None or isinstance(base, types.NoneType | types.Omitted):
        return kernels.divergences.one
    return kernels.divergences.root_unit if rooted else kernels.divergences.log_unit


_HALVES = (0.5, 0.5)

#: Of a call with 16 entries, 31 ns in all, not spent: 8 ns each for the call of the overload, the call of the
#: kernel (`Divergence.inner`), and, by `borrow`, for reference counts; Python's check for a division by zero.
_INLINED: Any = {"forceinline": True, "error_model": "numpy"}


def _overload_pair(name: str, kernel: str, has_base: bool = True) -> None:
    """A divergence of two arrays without parameters."""

    def typed(p, q, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(name, p, q)
        _no_keywords(name, axis, keepdims)
        code = _constant(name, "mass", mass, _masses(name))
        run = _pick(name, kernel, log)
        unit = _unit(base)
        if unit is not kernels.divergences.one and not has_base:
            raise TypingError(f"fastvi.{name} is not a logarithm, so base has no meaning")

        def compiled(p, q, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size != q.size or p.size == 0:
                return math.nan
            return run(borrow(p), borrow(q), (0.0, 0.0), code) / unit(base)

        return compiled

    overload(getattr(api, name), prefer_literal=True, jit_options=_INLINED)(typed)


def _masses(name: str) -> dict[str, int]:
    measures = name not in ("renyi", "bhattacharyya")
    return {word: code for word, code in MASSES.items() if measures or word != "any"}


def _overload_js(name: str, rooted: bool) -> None:

    def typed(p, q, weights=_HALVES, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(name, p, q)
        _no_keywords(name, axis, keepdims)
        code = _constant(name, "mass", mass, MASSES)
        run = _pick(name, name, log)
        unit = _unit(base, rooted)

        def compiled(p, q, weights=_HALVES, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            u, v = weights
            if p.size != q.size or p.size == 0:
                return math.nan
            if not (u > 0.0 and v > 0.0 and abs(u + v - 1.0) <= 1e-12):
                return math.nan
            return run(borrow(p), borrow(q), (u, v), code) / unit(base)

        return compiled

    overload(getattr(api, name), prefer_literal=True, jit_options=_INLINED)(typed)


def _overload_order(name: str, least: float, most: float) -> None:
    """A divergence with an order alpha, valid from `least` to `most`."""

    def typed(p, q, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(name, p, q)
        _no_keywords(name, axis, keepdims)
        code = _constant(name, "mass", mass, _masses(name))
        run = _pick(name, name, log)
        run_one = _pick(name, "kl" if name == "renyi" else name, log)
        unit, opaque = _unit(base), kernels.elementary.opaque
        if unit is not kernels.divergences.one and name == "alpha_divergence":
            raise TypingError(f"fastvi.{name} is not a logarithm, so base has no meaning")

        def compiled(p, q, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size != q.size or p.size == 0 or not least <= alpha <= most:
                return math.nan
            # In Python it is no constant either, and the bits are the same.
            theta = (opaque(float(alpha)), 0.0)
            if alpha == 1.0:
                return run_one(borrow(p), borrow(q), theta, code) / unit(base)
            return run(borrow(p), borrow(q), theta, code) / unit(base)

        return compiled

    overload(getattr(api, name), prefer_literal=True, jit_options=_INLINED)(typed)


for _name in ("kl", "cross_entropy", "jeffreys", "bhattacharyya"):
    _overload_pair(_name, _name)
_overload_pair("hellinger", "hellinger", has_base=False)
_overload_pair("total_variation", "total_variation", has_base=False)
_overload_pair("chi2", "chi2", has_base=False)
_overload_js("js", rooted=False)
_overload_js("js_distance", rooted=True)
_overload_order("renyi", 0.0, math.inf)
_overload_order("alpha_divergence", -1.797e308, 1.797e308)


@overload(api.entropy, prefer_literal=True)
def _entropy(p, axis=-1, base=None, mass="unit", log=False, keepdims=False):
    _check_arrays("entropy", p)
    _no_keywords("entropy", axis, keepdims)
    code = _constant("entropy", "mass", mass, MASSES)
    run = _pick("entropy", "cross_entropy", log)
    unit = _unit(base)

    def compiled(p, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        if p.size == 0:
            return math.nan
        return run(borrow(p), borrow(p), (0.0, 0.0), code) / unit(base)

    return compiled


@overload(api.kl_grad, prefer_literal=True)
def _kl_grad(p, q, axis=-1):
    _check_arrays("kl_grad", p, q)
    _no_keywords("kl_grad", axis, False)

    run = kernels.divergences.kl_grad

    def compiled(p, q, axis=-1):
        grad_p, grad_q = np.empty(p.size), np.empty(q.size)
        if p.size != q.size or p.size == 0:
            return math.nan, grad_p, grad_q
        return run(borrow(p), borrow(q), grad_p, grad_q), grad_p, grad_q

    return compiled
