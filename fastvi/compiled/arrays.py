"""The public functions of arrays inside the user's `numba.njit` code: an overload for each registry row.

In compiled code a distribution is a contiguous 1-D array, and the keywords that select a kernel are
compile-time constants. Nothing is raised: invalid input gives NaN, so that one bad item in a `prange` affects
no other item.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError

from .. import discrete as api
from .. import kernels
from ..common.validation import MASSES, WEIGHT_PAIR_TOLERANCE, WEIGHTS_TOLERANCE
from ..kernels.borrowing import borrow
from ..kernels.compiler import overloaded
from ..kernels.discrete.masses import ANY
from ..kernels.discrete.registry import HALVES, NO_THETA, ROWS, Row
from .external import external
from .types import constant, is_none


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
    constant(name, "axis", axis, {-1: None, 0: None})
    constant(name, "keepdims", keepdims, {False: None})


def _kernel(row: Row, name: str, log: Any) -> Any:
    """The kernel of a row, or of another one that serves it."""
    kind = constant(row.name, "log", log, {False: "whole", True: "log"})
    return external(f"kernels.discrete.divergences.KERNELS.{name}.{kind}")


def _code(row: Row, mass: Any) -> int:
    """The number that the kernels know a `mass` keyword by."""
    allowed = {word: code for word, code in MASSES.items() if row.measures or code != ANY}
    return int(constant(row.name, "mass", mass, allowed, show=repr))


def _unit(row: Row, base: Any) -> Any:
    """The function that maps `base` to what the result is divided by."""
    if is_none(base):
        return kernels.discrete.divergences.unit_one
    if not row.base:
        raise TypingError(f"fastvi.{row.name} is not a logarithm, so base has no meaning")
    return kernels.discrete.divergences.root_unit if row.root else kernels.discrete.divergences.log_unit


#: A call with 16 entries takes 45 ns. Inlining the overload and borrowing the arrays (`borrow`) each save
#: 8 ns; the error model saves Python's check for a division by zero.
_INLINED: Any = {"forceinline": True, "error_model": "numpy"}


# One template of an overload for each signature of the functions.


def _of_two(row: Row) -> Any:
    """Two arrays and no parameter."""

    def typed(p, q, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(row.name, p, q)
        _no_keywords(row.name, axis, keepdims)
        code, unit = _code(row, mass), _unit(row, base)
        run = _kernel(row, row.name, log)

        def compiled(p, q, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size != q.size or p.size == 0:
                return math.nan
            return run((borrow(p), borrow(q), NO_THETA, code)) / unit(base)

        return compiled

    return typed


def _of_weights(row: Row) -> Any:
    """Two arrays and two weights."""

    def typed(p, q, weights=HALVES, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(row.name, p, q)
        _no_keywords(row.name, axis, keepdims)
        code, unit = _code(row, mass), _unit(row, base)
        run = _kernel(row, row.name, log)

        def compiled(p, q, weights=HALVES, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            u, v = float(weights[0]), float(weights[1])
            if p.size != q.size or p.size == 0:
                return math.nan
            if not (u > 0.0 and v > 0.0 and abs(u + v - 1.0) <= WEIGHT_PAIR_TOLERANCE):
                return math.nan
            return run((borrow(p), borrow(q), (u, v), code)) / unit(base)

        return compiled

    return typed


def _of_order(row: Row) -> Any:
    """Two arrays and an order alpha."""
    low, high = row.orders or (0.0, 0.0)

    def typed(p, q, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(row.name, p, q)
        _no_keywords(row.name, axis, keepdims)
        code, unit = _code(row, mass), _unit(row, base)
        run = _kernel(row, row.name, log)
        run_one = _kernel(row, row.kernel_at_one, log) if row.kernel_at_one else run

        def compiled(p, q, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size != q.size or p.size == 0 or not low <= alpha <= high:
                return math.nan
            theta = (float(alpha), 0.0)
            if alpha == 1.0:
                return run_one((borrow(p), borrow(q), theta, code)) / unit(base)
            return run((borrow(p), borrow(q), theta, code)) / unit(base)

        return compiled

    return typed


def _of_one(row: Row) -> Any:
    """One array, which the kernel is given twice."""

    def typed(p, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(row.name, p)
        _no_keywords(row.name, axis, keepdims)
        code, unit = _code(row, mass), _unit(row, base)
        run = _kernel(row, row.kernel or row.name, log)

        def compiled(p, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size == 0:
                return math.nan
            return run((borrow(p), borrow(p), NO_THETA, code)) / unit(base)

        return compiled

    return typed


def _of_one_and_order(row: Row) -> Any:
    """One array, which the kernel is given twice, and an order alpha."""
    low, high = row.orders or (0.0, 0.0)

    def typed(p, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
        _check_arrays(row.name, p)
        _no_keywords(row.name, axis, keepdims)
        code, unit = _code(row, mass), _unit(row, base)
        run = _kernel(row, row.name, log)
        run_one = _kernel(row, row.kernel_at_one, log) if row.kernel_at_one else run

        def compiled(p, alpha, axis=-1, base=None, mass="unit", log=False, keepdims=False):
            if p.size == 0 or not low <= alpha <= high:
                return math.nan
            theta = (float(alpha), 0.0)
            if alpha == 1.0:
                return run_one((borrow(p), borrow(p), theta, code)) / unit(base)
            return run((borrow(p), borrow(p), theta, code)) / unit(base)

        return compiled

    return typed


def _overload(row: Row) -> None:
    """Register the public function of a row for compiled code."""
    signature = _of_weights if row.weights else _of_order if row.orders else _of_two
    if row.arrays == 1:
        signature = _of_one_and_order if row.orders else _of_one
    overloaded(getattr(api, row.name), prefer_literal=True, jit_options=_INLINED)(signature(row))


for _row in ROWS.values():
    _overload(_row)


def _check_table(name: str, table: Any, least: int, most: float) -> None:
    if not (
        isinstance(table, types.Array)
        and least <= table.ndim <= most
        and table.layout == "C"
        and table.dtype in (types.float64, types.float32)
    ):
        dimensions = "two dimensions" if most == 2 else f"{least} dimensions or more"
        raise TypingError(
            f"fastvi.{name} in compiled code takes a contiguous array of float64 or float32 in {dimensions}, "
            f"not {table}"
        )


@overloaded(api.js_many, prefer_literal=True)
def _js_many(P, weights=None, axis=-1, base=None, mass="unit"):
    _check_table("js_many", P, 2, 2)
    constant("js_many", "axis", axis, {-1: None, 1: None})
    row = ROWS["js"]
    code, unit = _code(row, mass), _unit(row, base)
    run, numbers = external("kernels.discrete.dependence.js_many"), kernels.discrete.dependence.JS_SPACE
    equal = is_none(weights)

    def compiled(P, weights=None, axis=-1, base=None, mass="unit"):
        count = P.shape[0]
        shares = np.full(count, 1.0 / max(count, 1))
        if not equal:
            total = 0.0
            for i in range(count if len(weights) == count else 0):
                shares[i] = weights[i]
                total = total + shares[i] if shares[i] >= 0.0 else math.nan
            if not abs(total - 1.0) <= WEIGHTS_TOLERANCE:
                return math.nan
            shares /= total
        if P.size == 0:
            return math.nan
        return run((borrow(P), shares, code, np.empty((numbers, count)))) / unit(base)

    return compiled


@overloaded(api.mutual_information, prefer_literal=True)
def _mutual_information(joint, axis=None, base=None, mass="unit", keepdims=False):
    _check_table("mutual_information", joint, 2, math.inf)
    constant("mutual_information", "axis", axis, {None: None})
    constant("mutual_information", "keepdims", keepdims, {False: None})
    code = int(constant("mutual_information", "mass", mass, {"unit": 0, "normalize": 1}, show=repr))
    unit, axes = _unit(ROWS["kl"], base), joint.ndim
    run = external("kernels.discrete.dependence.mutual_information")

    def compiled(joint, axis=None, base=None, mass="unit", keepdims=False):
        if joint.size == 0:
            return math.nan
        lengths = np.empty(axes, np.int64)
        for i, length in enumerate(joint.shape):
            lengths[i] = length
        space = np.empty((2, lengths.sum()))
        return run((borrow(joint.reshape(joint.size)), lengths, code, space)) / unit(base)

    return compiled


@overloaded(api.kl_grad, prefer_literal=True)
def _kl_grad(p, q, axis=-1):
    _check_arrays("kl_grad", p, q)
    _no_keywords("kl_grad", axis, False)

    run = external("kernels.discrete.divergences.kl_grad")

    def compiled(p, q, axis=-1):
        grad_p, grad_q = np.empty(p.size), np.empty(q.size)
        if p.size != q.size or p.size == 0:
            return math.nan, grad_p, grad_q
        return run((borrow(p), borrow(q), grad_p, grad_q)), grad_p, grad_q

    return compiled
