"""Divergences of arrays, warm."""

from __future__ import annotations

import numba
import numpy as np

import fastvi as fv
from fastvi.kernels.discrete.registry import BY_TERM, ROWS, Row

from . import sizes
from .inputs import pair

#: The order of the divergences that have one.
ALPHA = 2.5


def _call(row: Row):
    function = getattr(fv, row.name)
    if row.arrays == 1:
        return (lambda p, q: function(p, ALPHA)) if row.orders else lambda p, q: function(p)
    if row.orders:
        return lambda p, q: function(p, q, ALPHA)
    return function


#: The rows that are measured: not the roots of sums that other rows have as well.
NAMES = tuple(name for name, row in ROWS.items() if BY_TERM.get(row.term, row) is row)

#: Calls by name.
CALLS = {name: _call(ROWS[name]) for name in NAMES} | {"kl_grad": fv.kl_grad}


class Vectors:
    """A million entries (ten million for n = 1e7) in calls of n: 1 ms is 1 ns an entry.

    asv runs `setup` before every single timing, so short calls have to be repeated in here.
    """

    params = (tuple(CALLS), ("float64", "float32"), sizes(16, 1_000, 1_000_000, 10_000_000))
    param_names = ("function", "dtype", "n")
    timeout = 300

    def setup(self, function, dtype, n):
        numba.set_num_threads(1)
        self.p, self.q = pair(n, dtype=dtype)
        CALLS[function](self.p, self.q)  # compiles

    def time_million_entries(self, function, dtype, n):
        call, p, q = CALLS[function], self.p, self.q
        for _ in range(max(1, 1_000_000 // n)):
            call(p, q)


class Threads:
    """One long array, in chunks."""

    params = (sizes(100_000, 1_000_000, 10_000_000), sizes(1, 2))
    param_names = ("n", "threads")
    timeout = 300

    def setup(self, n, threads):
        use_threads(threads)
        self.p, self.q = pair(n)
        self.time_kl(n, threads)

    def time_kl(self, n, threads):
        fv.kl(self.p, self.q)


class Logarithms:
    """Arrays of log-probabilities."""

    params = (("kl", "js", "renyi"), sizes(1_000, 1_000_000))
    param_names = ("function", "n")
    timeout = 300

    def setup(self, function, n):
        numba.set_num_threads(1)
        self.arguments = [np.log(a) for a in pair(n)] + ([ALPHA] if ROWS[function].orders else [])
        self.time_whole(function, n)

    def time_whole(self, function, n):
        getattr(fv, function)(*self.arguments, log=True)


class Rows:
    """Paired rows, and rows against one distribution that is not copied for each."""

    params = (("kl", "js", "hellinger"), sizes(100, 2_000, 20_000), sizes(1, 2))
    param_names = ("function", "rows", "threads")
    timeout = 300

    def setup(self, function, rows, threads):
        use_threads(threads)
        self.p, self.q = pair((rows, 256))
        self.time_paired(function, rows, threads)

    def time_paired(self, function, rows, threads):
        CALLS[function](self.p, self.q)

    def time_against_one(self, function, rows, threads):
        CALLS[function](self.p, self.q[0])


def use_threads(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        raise NotImplementedError  # asv skips it
    numba.set_num_threads(threads)
