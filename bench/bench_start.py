"""Times that do not depend on the size of the data: import, compilation, the call itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import numba
import numpy as np

import fastvi as fv

from . import SMOKE
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


_BEGIN = """
import time
import numpy as np
import fastvi as fv
p = np.full(16, 1 / 16)
q = p[::-1].copy()
mixture = fv.GaussianMixture([0.4, 0.6], [[-2, 0], [2, 0]], [np.eye(2)] * 2)
model = fv.Model(lambda z, x: -z[0] - 0.5 * (x - z[0]) ** 2, 1, data=(5.0,))
start = time.perf_counter()
"""

_END = """
print(time.perf_counter() - start)
"""

_WORKS = {"kl": "fv.kl(p, q)", "i_projection": "fv.i_projection(mixture)", "fit": "fv.fit(model)"}


def _first_call(work, **environment):
    command = [sys.executable, "-c", _BEGIN + _WORKS[work] + _END]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


class FirstCall:
    """The first call of a process, which compiles or loads its kernels, without the import."""

    unit = "seconds"
    timeout = 300

    def track_kl_cold(self):
        with tempfile.TemporaryDirectory() as cache:
            return _first_call("kl", NUMBA_CACHE_DIR=cache)

    def track_cached(self, work):
        """A fit compiles the user's log joint all the same."""
        _first_call(work)
        return min(_first_call(work) for _ in range(ROUNDS))

    track_cached.params = tuple(_WORKS)
    track_cached.param_names = ("work",)


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
