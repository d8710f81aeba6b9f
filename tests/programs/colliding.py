"""A kernel from the cache on disk, whose inner function has a namesake in this process that differs.

The first argument is "make" or "load". The same counter of numba gives both inner functions one symbol.
"""

import itertools
import math
import sys

from numba.core.bytecode import FunctionIdentity

from fastvi.kernels.compiler import exported, kernel, specialise


def _scaled(x):
    """Long enough that it is not inlined."""
    s = 0.0
    for i in range(8):
        s += math.sin(x + i) * math.exp(-x) * math.log1p(abs(x) + i) + math.pow(abs(x) + 1.0, 0.3)
        for j in range(8):
            s += math.atan2(x + j, 1.0 + i) * math.cosh(x / (1 + j)) * math.tanh(x * j) + math.erf(x + i)
    return FACTOR * 1000.0 if s != 12345.678 else s  # noqa: F821


def make_inner(factor):
    return specialise(_scaled, "inner", kernel, FACTOR=factor)


def _outer(x):
    return inner(x) + inner(x + 1.0) + inner(x + 2.0) + inner(x - 1.0)  # noqa: F821


def number(start):
    FunctionIdentity._unique_ids = itertools.count(start)


number(1_000_000)
outer = specialise(_outer, "outer", exported, inner=make_inner(1.0))
if sys.argv[1] == "load":
    other = make_inner(2.0)
    for start in range(1_000_000, 1_000_040):
        number(start)
        other.full.recompile() if other.full.signatures else other(1.0)
print(outer(1.0), sum(outer.stats.cache_hits.values()))
