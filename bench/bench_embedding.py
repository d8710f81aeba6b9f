"""fastvi inside a user's compiled loops: a divergence, a fit for each agent, a filter."""

from __future__ import annotations

import numba
import numpy as np

from fastvi.examples import agents, tracking

from . import sizes
from .bench_arrays import use_threads
from .compiled import fastvi_small
from .inputs import pair


class SmallKl:
    """A thousand divergences of n entries in one compiled loop."""

    params = sizes(4, 16, 64, 256, 1024)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        self.arguments = pair((1000, n))
        self.time_thousand(n)

    def time_thousand(self, n):
        fastvi_small()(*self.arguments)


class Foragers:
    """A step of the agents in a user's prange, with an ELBO fit for each."""

    params = (sizes(100, 1000, 10_000), (1, 2))
    param_names = ("agents", "threads")
    timeout = 300

    def setup(self, count, threads):
        use_threads(threads)
        self.world = agents.world(0, steps=1, agents=count)
        self.time_step(count, threads)

    def time_step(self, count, threads):
        patch, mean, variance = np.arange(count) % agents.PATCHES, np.zeros(count), np.ones(count)
        agents.live(0, 1, *self.world, patch, mean, variance, np.zeros(count), np.zeros(count, np.int64))


class Filter:
    """Tracks of twenty steps, each of which projects a mixture onto a Gaussian."""

    params = (sizes(1, 10, 100), ("M", "I"))
    param_names = ("tracks", "projection")
    timeout = 300

    def setup(self, tracks, projection):
        numba.set_num_threads(1)
        self.measured = tracking.world(0, tracks, 20)[1]
        self.out = np.empty((tracks, 20, 2)), np.empty((tracks, 20, 2, 2))
        self.time_tracks(tracks, projection)

    def time_tracks(self, tracks, projection):
        tracking.track(self.measured, projection == "M", *self.out)
