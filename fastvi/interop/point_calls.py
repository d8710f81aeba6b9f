"""C functions of one point, as other systems have them, called for each point of a block.

Each pair of functions here has the signatures of `kernels.models.packing`. A point that the other system
rejects has the value -inf and a gradient of zeros. Addresses are numbers here.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..kernels.compiler import exported_to_c, inlined

_NUMBERS, _WORDS = types.CPointer(types.float64), types.CPointer(types.int64)
_VALUE = types.int64(types.int64, types.int64, types.int64, types.int64, types.int64, _WORDS, _NUMBERS)
_SLOPES = types.int64(
    types.int64, types.int64, types.int64, types.int64, types.int64, _WORDS, _NUMBERS, _NUMBERS
)

#: Bytes of a number.
_SIZE = 8


@intrinsic
def _address(typing_context, pointer):
    """Where a pointer points to."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(pointer), generate


def _caller(bits):
    """A function that calls the C function at an address, which returns an integer of so many bits."""

    @intrinsic
    def call(typing_context, function, words):
        """What it returns for numbers and addresses."""

        def generate(context, builder, signature, arguments):
            word, passed = ir.IntType(64), cgutils.unpack_tuple(builder, arguments[1])
            kind = ir.FunctionType(ir.IntType(bits), [word] * len(passed))
            found = builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), passed)
            return found if bits == 64 else builder.sext(found, word)

        return types.int64(function, words), generate

    return call


_call, _call_long = _caller(32), _caller(64)


@inlined
def _reject(gradients, start, dim):
    for j in range(start, start + dim):
        gradients[j] = 0.0


def stan_values(nodes, count, dim, theta, size, table, out):
    """For the table (model, drops constants, bs_log_density, bs_log_density_gradient)."""
    place = _address(out)
    for i in range(count):
        call = table[0], table[1], 1, nodes + i * dim * _SIZE, place + i * _SIZE, 0
        if _call(table[2], call):
            out[i] = -math.inf
    return 0


def stan_slopes(nodes, count, dim, theta, size, table, out, gradients):
    """`stan_values`, with gradients."""
    place, slopes = _address(out), _address(gradients)
    for i in range(count):
        row = i * dim * _SIZE
        call = table[0], table[1], 1, nodes + row, place + i * _SIZE, slopes + row, 0
        if _call(table[3], call):
            out[i] = -math.inf
            _reject(gradients, i * dim, dim)
    return 0


#: What nutpie's function returns where the gradient, or the log density, is not finite: they are as they are.
WITHOUT_VALUE = 3, 4


def pymc_values(nodes, count, dim, theta, size, table, out):
    """For the table (nutpie's function, its user data). It writes a gradient in any case."""
    place, unused = _address(out), np.empty(dim)
    for i in range(count):
        call = dim, nodes + i * dim * _SIZE, unused.ctypes.data, place + i * _SIZE, table[1]
        code = _call_long(table[0], call)
        if code != 0 and code not in WITHOUT_VALUE:
            out[i] = -math.inf
    return 0


def pymc_slopes(nodes, count, dim, theta, size, table, out, gradients):
    """`pymc_values`, with gradients."""
    place, slopes = _address(out), _address(gradients)
    for i in range(count):
        row = i * dim * _SIZE
        code = _call_long(table[0], (dim, nodes + row, slopes + row, place + i * _SIZE, table[1]))
        if code != 0 and code not in WITHOUT_VALUE:
            out[i] = -math.inf
            _reject(gradients, i * dim, dim)
    return 0


class Functions(NamedTuple):
    """A value and its slopes, compiled; the addresses hold as long as these are referred to."""

    value: Any
    slopes: Any


_made: dict[str, Functions] = {}


def functions(system: str) -> Functions:
    """The functions of a system, "stan" or "pymc", compiled at the first call or read from the disk."""
    if system not in _made:
        value, slopes = globals()[f"{system}_values"], globals()[f"{system}_slopes"]
        _made[system] = Functions(exported_to_c(_VALUE)(value), exported_to_c(_SLOPES)(slopes))
    return _made[system]
