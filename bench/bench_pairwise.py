"""Divergences between all pairs of rows."""

from __future__ import annotations

import tracemalloc

import numpy as np

import fastvi as fv
from fastvi.kernels.discrete.registry import METRICS

from . import pairwise_kinds, sizes
from .bench_arrays import use_threads
from .inputs import pair


class Pairwise:
    params = (
        ("kl", "js", "hellinger"),
        sizes((100, 100, 16), (400, 300, 256), (2_000, 2_000, 64)),
        sizes(1, 2),
    )
    param_names = ("metric", "shape", "threads")
    timeout = 300

    def setup(self, metric, shape, threads):
        use_threads(threads)
        n, m, d = shape
        self.p, self.q = pair((n, d), (m, d))
        self.time_pairwise(metric, shape, threads)  # compiles, and starts the threads

    def time_pairwise(self, metric, shape, threads):
        fv.pairwise(self.p, self.q, metric)


class Kinds:
    """Every metric on every kind of rows, 300 x 200 rows of 256, on one thread."""

    params = (tuple(METRICS), sizes(*pairwise_kinds.KINDS))
    param_names = ("metric", "kind")
    timeout = 300

    def setup(self, metric, kind):
        use_threads(1)
        self.p, self.q, mass = pairwise_kinds.kind(kind)
        self.keywords = {"metric": metric, "mass": mass, **pairwise_kinds.keywords(metric)}
        self.time_pairwise(metric, kind)

    def time_pairwise(self, metric, kind):
        fv.pairwise(self.p, self.q, **self.keywords)


class Symmetric:
    """The time of ``pairwise(P)`` over that of ``pairwise(P, P.copy())``."""

    params = (tuple(name for name, row in METRICS.items() if row.symmetric),)
    param_names = ("metric",)

    def track_half(self, metric):
        use_threads(1)
        return pairwise_kinds.half(metric)

    track_half.unit = "of the time"


class Memory:
    """A result of 128 MiB in a file, at most. asv runs each benchmark in a temporary directory."""

    params = (("kl", "js", "hellinger"), sizes(1_000, 4_000))
    param_names = ("metric", "rows")
    timeout = 300

    def setup_cache(self):
        # Compiled in this process, so that the peak of the measured ones is not the compiler's.
        p, q = pair((8, 64))
        for metric in self.params[0]:
            fv.pairwise(p, q, metric)

    def setup(self, metric, rows):
        self.p, self.q = pair((rows, 64))
        self.out = np.memmap("out", mode="w+", dtype=np.float64, shape=(len(self.p), len(self.q)))
        fv.pairwise(self.p[:8], self.q[:8], metric)

    def peakmem_into_memmap(self, metric, rows):
        """The whole process, with those pages of the file that the system keeps mapped."""
        fv.pairwise(self.p, self.q, metric, out=self.out)

    def track_beyond_result(self, metric, rows):
        """What NumPy allocates meanwhile, to be below 64 MiB. (The kernels allocate nothing.)"""
        tracemalloc.start()
        fv.pairwise(self.p, self.q, metric, out=self.out)
        return tracemalloc.get_traced_memory()[1]

    track_beyond_result.unit = "bytes"
