"""Steady state of the divergences on arrays."""

from __future__ import annotations

import numba

import fastvi as fv

from .inputs import pair

#: Calls by name. `js_distance` is the root of `js`.
CALLS = {
    "entropy": lambda p, q: fv.entropy(p),
    "cross_entropy": fv.cross_entropy,
    "kl": fv.kl,
    "js": fv.js,
    "jeffreys": fv.jeffreys,
    "hellinger": fv.hellinger,
    "total_variation": fv.total_variation,
    "chi2": fv.chi2,
    "bhattacharyya": fv.bhattacharyya,
    "renyi": lambda p, q: fv.renyi(p, q, 2.5),
    "alpha_divergence": lambda p, q: fv.alpha_divergence(p, q, 2.5),
    "kl_grad": fv.kl_grad,
}


class Vectors:
    """A million entries (ten million for n = 1e7) in calls of n: 1 ms is 1 ns an entry.

    asv runs `setup` before every single timing, so short calls have to be repeated in here.
    """

    params = (tuple(CALLS), ("float64", "float32"), (16, 1_000, 1_000_000, 10_000_000))
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


class Rows:
    """Paired rows, and rows against one distribution that is not copied for each."""

    params = (("kl", "js", "hellinger"), (1, 2))
    param_names = ("function", "threads")
    timeout = 300

    def setup(self, function, threads):
        use_threads(threads)
        self.p, self.q = pair((100_000, 256))
        self.time_paired(function, threads)

    def time_paired(self, function, threads):
        CALLS[function](self.p, self.q)

    def time_against_one(self, function, threads):
        CALLS[function](self.p, self.q[0])


def use_threads(threads):
    if threads > numba.config.NUMBA_NUM_THREADS:
        raise NotImplementedError  # asv skips it
    numba.set_num_threads(threads)
