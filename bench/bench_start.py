"""Times that do not depend on the size of the data: import, compilation, the call itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numba
import numpy as np

import fastvi as fv

from . import SMOKE, first_call, sizes
from .inputs import pair

#: Processes whose minimum is taken.
ROUNDS = 1 if SMOKE else 3


def _seconds(statement):
    """The time of a whole process, interpreter included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


class Import:
    def time_fastvi(self):
        _seconds("import fastvi")

    def time_numba(self):
        _seconds("import numba")

    def track_fastvi_over_numba(self):
        rounds = [(_seconds("import fastvi"), _seconds("import numba")) for _ in range(ROUNDS)]
        ours, theirs = map(min, zip(*rounds, strict=True))
        return ours / theirs

    track_fastvi_over_numba.unit = "ratio"


class FirstCall:
    """CPU seconds of the first call of a process, by the compiler and from the cache on disk."""

    params = sizes(*first_call.CALLS)
    param_names = ("call",)
    unit = "seconds"
    timeout = 600

    def track_compiler(self, call):
        with tempfile.TemporaryDirectory() as cache:
            return first_call.seconds(call, False, cache)

    def track_cache(self, call):
        """A fit compiles the user's log joint all the same."""
        with tempfile.TemporaryDirectory() as cache:
            return min(first_call.seconds(call, False, cache) for _ in range(1 + ROUNDS))


@numba.njit
def _thousand_calls(p, q):
    total = 0.0
    for _ in range(1000):
        total += fv.kl(p, q)
    return total


class Call:
    """A thousand calls on arrays of 16: nearly all of it is the cost of a call."""

    params = ("kl", "js", "entropy", "hellinger")
    param_names = ("function",)
    timeout = 300

    def setup(self, function):
        self.p, self.q = pair(16)
        self.function = getattr(fv, function)
        self.time_thousand_calls(function)

    def time_thousand_calls(self, function):
        arguments = (self.p,) if function == "entropy" else (self.p, self.q)
        for _ in range(1000):
            self.function(*arguments)


class CallCompiled:
    """The same from the user's own compiled function."""

    timeout = 300

    def setup(self):
        self.p, self.q = pair(16)
        _thousand_calls(self.p, self.q)

    def time_thousand_calls_of_kl(self):
        _thousand_calls(self.p, self.q)


class CallBroadcast:
    """A thousand calls on small arrays that need the general path: shapes, axes, another dtype."""

    timeout = 300

    def setup(self):
        self.p, self.q = pair((4, 16), 16)
        self.counts = np.arange(1, 17)
        self.time_thousand_calls_broadcast()
        self.time_thousand_calls_counts()

    def time_thousand_calls_broadcast(self):
        for _ in range(1000):
            fv.kl(self.p, self.q, axis=-1)

    def time_thousand_calls_counts(self):
        for _ in range(1000):
            fv.kl(self.counts, self.q, mass="normalize")
