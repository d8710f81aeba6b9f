"""The log densities of `log_densities` for dual numbers: the same values, with derivatives by `slopes`.

A sum over an array goes in blocks: a loop over the slopes, which is vectorised, then one over the derivatives
of each argument that has some.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ..compiler import Lazily, adder, kernel, overloaded, specialise
from ..numerics.dual_arrays import DualArrayType, entry, values
from ..numerics.duals import dual, moved_by, no_partials, value, with_partials
from . import log_densities
from . import slopes as slopes_
from .log_densities import ROWS, at, block, common, length

#: Slopes that are held at once.
BLOCK = 256


@intrinsic
def room(typing_context):
    """Room for the slopes of a block in four arguments, (4, BLOCK), on the stack."""
    kind = types.Array(types.float64, 2, "C")

    def generate(context, builder, signature, arguments):
        word, real = ir.IntType(64), ir.DoubleType()
        data = cgutils.alloca_once(builder, ir.ArrayType(real, 4 * BLOCK))
        array = context.make_array(kind)(context, builder)
        shape, strides = ([ir.Constant(word, n) for n in sizes] for sizes in ((4, BLOCK), (8 * BLOCK, 8)))
        pointer = builder.bitcast(data, real.as_pointer())
        populate_array(array, pointer, shape, strides, ir.Constant(word, 8), None)
        return array._getvalue()

    return kind(), generate


def plain(x):
    """What an argument is without derivatives: a float, or an array of numbers."""


@overloaded(plain)
def _overload_plain(x):
    if isinstance(x, DualArrayType | types.Array):
        return lambda x: values(x)
    return lambda x: value(x)


def moved_along(moved, x, weights, low, count):
    """moved + the derivatives of `count` entries of an argument from `low` on, times weights."""


@adder
def _add_up(weights, count):
    total = 0.0
    for i in range(count):
        total += weights[i]
    return total


@overloaded(moved_along)
def _overload_moved_along(moved, x, weights, low, count):
    if x == dual:
        return lambda moved, x, weights, low, count: moved_by(moved, _add_up(weights, count), x)
    if isinstance(x, DualArrayType):

        def each(moved, x, weights, low, count):
            for i in range(count):
                moved = moved_by(moved, weights[i], entry(x, low + i))
            return moved

        return each
    return lambda moved, x, weights, low, count: moved


# Templates (`run`, `slopes`, `prepare`).


def _one_1(x, a):
    vx, va = value(x), value(a)
    in_x, in_a = slopes(vx, va)  # noqa: F821
    return with_partials(run(vx, va), moved_by(moved_by(no_partials(), in_x, x), in_a, a))  # noqa: F821


def _one_2(x, a, b):
    vx, va, vb = value(x), value(a), value(b)
    in_x, in_a, in_b = slopes(vx, va, vb)  # noqa: F821
    moved = moved_by(moved_by(moved_by(no_partials(), in_x, x), in_a, a), in_b, b)
    return with_partials(run(vx, va, vb), moved)  # noqa: F821


def _one_3(x, a, b, c):
    vx, va, vb, vc = value(x), value(a), value(b), value(c)
    in_x, in_a, in_b, in_c = slopes(vx, va, vb, vc)  # noqa: F821
    moved = moved_by(moved_by(moved_by(no_partials(), in_x, x), in_a, a), in_b, b)
    return with_partials(run(vx, va, vb, vc), moved_by(moved, in_c, c))  # noqa: F821


def _sum_1(x, a):
    vx, va = plain(x), plain(a)
    moved, held = no_partials(), room()
    n = common(length(vx), length(va))
    for low in range(0, n, BLOCK):
        count = min(BLOCK, n - low)
        x_, a_ = block(vx, low, count), block(va, low, count)
        for i in range(count):
            held[0, i], held[1, i] = slopes(at(x_, i), at(a_, i))  # noqa: F821
        moved = moved_along(moved, x, held[0], low, count)
        moved = moved_along(moved, a, held[1], low, count)
    return with_partials(run(vx, va), moved)  # noqa: F821


def _sum_2(x, a, b):
    vx, va, vb = plain(x), plain(a), plain(b)
    moved, held = no_partials(), room()
    n = common(common(length(vx), length(va)), length(vb))
    for low in range(0, n, BLOCK):
        count = min(BLOCK, n - low)
        x_, a_, b_ = block(vx, low, count), block(va, low, count), block(vb, low, count)
        for i in range(count):
            found = slopes(at(x_, i), at(a_, i), at(b_, i))  # noqa: F821
            held[0, i], held[1, i], held[2, i] = found
        moved = moved_along(moved, x, held[0], low, count)
        moved = moved_along(moved, a, held[1], low, count)
        moved = moved_along(moved, b, held[2], low, count)
    return with_partials(run(vx, va, vb), moved)  # noqa: F821


def _sum_3(x, a, b, c):
    vx, va, vb, vc = plain(x), plain(a), plain(b), plain(c)
    moved, held = no_partials(), room()
    n = common(common(length(vx), length(va)), common(length(vb), length(vc)))
    for low in range(0, n, BLOCK):
        count = min(BLOCK, n - low)
        x_, a_ = block(vx, low, count), block(va, low, count)
        b_, c_ = block(vb, low, count), block(vc, low, count)
        for i in range(count):
            found = slopes(at(x_, i), at(a_, i), at(b_, i), at(c_, i))  # noqa: F821
            held[0, i], held[1, i], held[2, i], held[3, i] = found
        moved = moved_along(moved, x, held[0], low, count)
        moved = moved_along(moved, a, held[1], low, count)
        moved = moved_along(moved, b, held[2], low, count)
        moved = moved_along(moved, c, held[3], low, count)
    return with_partials(run(vx, va, vb, vc), moved)  # noqa: F821


def _over_x_1(x, a):
    return over_x(x, prepare(a))  # noqa: F821


def _over_x_2(x, a, b):
    return over_x(x, prepare(a, b))  # noqa: F821


def _over_x_3(x, a, b, c):
    return over_x(x, prepare(a, b, c))  # noqa: F821


class DualDensity(NamedTuple):
    """The kernels of one log density for dual numbers."""

    one: Any  #: of numbers
    over_x: Any  #: of an array x and numbers as parameters: the sum
    over_all: Any  #: of arguments of which one at least is an array: the sum


_ONES = {1: _one_1, 2: _one_2, 3: _one_3}
_SUMS = {1: _sum_1, 2: _sum_2, 3: _sum_3}
_OVER_X = {1: _over_x_1, 2: _over_x_2, 3: _over_x_3}


def _assemble(name, count):
    found, slopes = log_densities.KERNELS[name], slopes_.SLOPES[name]
    over_x = specialise(_OVER_X[count], f"_{name}_over_x", over_x=found.over_x, prepare=found.prepare)
    return DualDensity(
        specialise(_ONES[count], f"_{name}_dual", run=found.value, slopes=slopes),
        specialise(_SUMS[count], f"_{name}_dual_sum_over_x", run=over_x, slopes=slopes),
        specialise(_SUMS[count], f"_{name}_dual_sum", run=found.over_all, slopes=slopes),
    )


#: Of how many arguments, from the first, there are no derivatives, by the name of the density.
INTEGERS = {"poisson_log": 1, "bernoulli_logit": 1, "binomial_logit": 2, "neg_binomial_2_log": 1}

#: The kernels of each density by its name.
KERNELS = Lazily({name: partial(_assemble, name, count) for name, (_, _, count) in ROWS.items()})

# Densities of vectors and matrices.


def moved_by_all(moved, x, slopes):
    """moved + the sum of the derivatives of an array's entries, times slopes."""


@overloaded(moved_by_all)
def _overload_moved_by_all(moved, x, slopes):
    if isinstance(x, DualArrayType):

        def each(moved, x, slopes):
            weights = slopes.ravel()
            for i in range(weights.size):
                moved = moved_by(moved, weights[i], entry(x, i))
            return moved

        return each
    return lambda moved, x, slopes: moved


@kernel
def dirichlet(theta, alpha):
    vt, va = plain(theta), plain(alpha)
    result, moved = log_densities.dirichlet(vt, va), no_partials()
    if vt.size == va.size:
        in_theta, in_alpha = np.empty(vt.size), np.empty(vt.size)
        slopes_.dirichlet_slopes(vt, va, in_theta, in_alpha)
        moved = moved_by_all(moved_by_all(moved, theta, in_theta), alpha, in_alpha)
    return with_partials(result, moved)


@kernel
def multi_normal_cholesky(x, mu, factor):
    """Of a vector x, or of rows."""
    vx, vm, vf = plain(x), plain(mu), plain(factor)
    rows, moved = vx.reshape((-1, vx.shape[-1])), no_partials()
    result = log_densities.multi_normal_cholesky(rows, vm, vf)
    if vm.size == rows.shape[1] == vf.shape[0] == vf.shape[1]:
        in_x, in_mu, in_factor = np.empty(rows.shape), np.empty(vm.size), np.empty(vf.shape)
        slopes_.multi_normal_cholesky_slopes(rows, vm, vf, in_x, in_mu, in_factor)
        moved = moved_by_all(moved_by_all(moved, x, in_x), mu, in_mu)
        moved = moved_by_all(moved, factor, in_factor)
    return with_partials(result, moved)


@kernel
def lkj_corr_cholesky(factor, eta):
    vf, ve = plain(factor), value(eta)
    result, moved = log_densities.lkj_corr_cholesky(vf, ve), no_partials()
    if vf.shape[0] == vf.shape[1]:
        in_factor = np.empty(vf.shape)
        in_eta = slopes_.lkj_corr_cholesky_slopes(vf, ve, in_factor)
        moved = moved_by(moved_by_all(moved, factor, in_factor), in_eta, eta)
    return with_partials(result, moved)


@kernel
def log_sum_exp(x):
    numbers = plain(x)
    result, slopes = log_densities.log_sum_exp(numbers), np.empty(numbers.size)
    slopes_.log_sum_exp_slopes(numbers, result, slopes)
    return with_partials(result, moved_by_all(no_partials(), x, slopes))


@kernel
def log_sum_exp_2(x, y):
    vx, vy = value(x), value(y)
    result = log_densities.log_sum_exp_2(vx, vy)
    moved = moved_by(no_partials(), slopes_.share_of(vx, result), x)
    return with_partials(result, moved_by(moved, slopes_.share_of(vy, result), y))


@kernel
def log_mix(theta, x):
    vt, vx = plain(theta), plain(x)
    result, moved = log_densities.log_mix(vt, vx), no_partials()
    if vt.size == vx.size:
        in_theta, in_x = np.empty(vx.size), np.empty(vx.size)
        slopes_.log_mix_slopes(vt, vx, result, in_theta, in_x)
        moved = moved_by_all(moved_by_all(moved, theta, in_theta), x, in_x)
    return with_partials(result, moved)


@kernel
def log_mix_2(theta, x, y):
    vt, vx, vy = value(theta), value(x), value(y)
    result = log_densities.log_mix_2(vt, vx, vy)
    one, other = slopes_.share_of(vx, result), slopes_.share_of(vy, result)
    moved = moved_by(moved_by(no_partials(), one - other, theta), vt * one if vt > 0.0 else 0.0, x)
    return with_partials(result, moved_by(moved, (1.0 - vt) * other if vt < 1.0 else 0.0, y))


@kernel
def categorical_logit(y, beta):
    numbers = plain(beta)
    slopes = np.empty(numbers.size)
    slopes_.categorical_logit_slopes(y, numbers, log_densities.log_sum_exp(numbers), slopes)
    moved = moved_by_all(no_partials(), beta, slopes)
    return with_partials(log_densities.categorical_logit(y, numbers), moved)


@kernel
def categorical_logit_1(y, beta):
    """Of one outcome."""
    numbers = plain(beta)
    normaliser, slopes = log_densities.log_sum_exp(numbers), np.empty(numbers.size)
    slopes_.log_sum_exp_slopes(numbers, normaliser, slopes)
    for k in range(slopes.size):
        slopes[k] = (1.0 if k == y else 0.0) - slopes[k]
    moved = moved_by_all(no_partials(), beta, slopes)
    return with_partials(log_densities.categorical_logit_1(1.0 * y, numbers, normaliser), moved)
