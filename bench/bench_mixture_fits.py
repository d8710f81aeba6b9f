"""EM for Gaussian mixtures: steps over the size of the data, and whole fits."""

from __future__ import annotations

import numba
import numpy as np

import fastvi as fv

from . import sizes
from .em import clouds, geyser, plain_em


class Steps:
    """Ten M-steps of a mixture in three dimensions."""

    params = (sizes(100, 10_000, 1_000_000), sizes(1, 2, 5, 10))
    param_names = ("n", "k")
    timeout = 300

    def setup(self, n, k):
        numba.set_num_threads(1)
        self.x, self.start = clouds(n, k, 3)
        self.time_ten_steps(n, k)

    def time_ten_steps(self, n, k):
        fv.fit_mixture(self.x, k, start=self.start, tol=0.0, max_iterations=10)


class Dimensions:
    params = sizes(1, 2, 3, 4, 8)
    param_names = ("d",)
    timeout = 300

    def setup(self, d):
        numba.set_num_threads(1)
        self.x, self.start = clouds(10_000, 3, d)
        self.time_ten_steps(d)

    def time_ten_steps(self, d):
        fv.fit_mixture(self.x, 3, start=self.start, tol=0.0, max_iterations=10)


class OldFaithful:
    timeout = 300

    def setup(self):
        numba.set_num_threads(1)
        self.x, self.start = geyser()
        self.time_fit()

    def time_fit(self):
        fv.fit_mixture(self.x, 2, start=self.start)

    def time_ten_restarts(self):
        fv.fit_mixture(self.x, 2)

    def track_error(self):
        """Relative error of the log likelihood, to be below 1e-12."""
        exact = plain_em(self.x, self.start, 100, np.longdouble)
        found = -fv.fit_mixture(self.x, 2, start=self.start).log_likelihood
        return float(abs(found - exact) / exact)
