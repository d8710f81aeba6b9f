"""Functions of arrays on the kinds of input that people have, one thread, warm."""

from __future__ import annotations

import numba

from . import kinds, sizes


class Kinds:
    """One call with 100,000 entries: 0.1 ms is 1 ns an entry."""

    params = (sizes(*kinds.FUNCTIONS), sizes(*kinds.KINDS))
    param_names = ("function", "kind")

    def setup(self, function, kind):
        numba.set_num_threads(1)
        self.call = kinds.call(function, *kinds.arguments(kind), kinds.KINDS[kind])
        self.call()  # compiles

    def time_call(self, function, kind):
        self.call()
