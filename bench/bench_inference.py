"""Fits, bounds and evidences of models, and the accuracy of the worked example."""

from __future__ import annotations

import numba
import numpy as np

import fastvi as fv

from .inference import EFFECTS, ERRORS, observations, schools_model, worked, worst_of_worked


def regression(z, x, y):
    total = 0.0
    for j in range(z.size):
        total -= 0.5 * z[j] ** 2
    for n in range(y.size):
        r = y[n]
        for j in range(z.size):
            r -= x[n, j] * z[j]
        total -= 0.5 * r * r
    return total


class Fits:
    """A linear regression, whose posterior is Gaussian."""

    params = (["full", "diag", "isotropic"], [1, 2, 5, 20])
    param_names = ("family", "dim")
    timeout = 300

    def setup(self, family, dim):
        numba.set_num_threads(1)
        rng = np.random.default_rng(20240229)
        x = rng.standard_normal((40, dim))
        self.model = fv.Model(regression, dim, data=(x, x.sum(axis=1) + rng.standard_normal(40)))
        self.time_fit(family, dim)

    def time_fit(self, family, dim):
        fv.fit(self.model, family)


class Schools:
    params = (True, False)
    param_names = ("gradient",)
    timeout = 300

    def setup(self, gradient):
        numba.set_num_threads(1)
        self.model = schools_model(gradient).with_data((EFFECTS, ERRORS))
        self.time_fit(gradient)

    def time_fit(self, gradient):
        fv.fit(self.model, "diag")


class Worked:
    """The worked example, on the real line and on z > 0."""

    params = ("real", "positive")
    param_names = ("support",)
    timeout = 300

    def setup(self, support):
        numba.set_num_threads(1)
        self.model = fv.Model(worked, 1, data=(5.0,), support=support)
        self.q = fv.fit(self.model).q
        for method in (self.time_fit, self.time_elbo, self.time_log_evidence, self.time_decompose):
            method(support)

    def time_fit(self, support):
        fv.fit(self.model)

    def time_elbo(self, support):
        fv.elbo(self.model, self.q)

    def time_log_evidence(self, support):
        fv.log_evidence(self.model)

    def time_decompose(self, support):
        fv.decompose(self.model, self.q)


class Batches:
    params = ([1, 100, 10_000], [1, 2])
    param_names = ("data sets", "threads")
    timeout = 300

    def setup(self, count, threads):
        if not hasattr(fv, "fit_batch") or threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError
        numba.set_num_threads(threads)
        self.model = fv.Model(worked, 1, data=(1.0,), support="positive")
        self.x = observations()[0][:count]
        self.time_fit_batch(count, threads)

    def time_fit_batch(self, count, threads):
        fv.fit_batch(self.model, (self.x,), "diag")


class Accuracy:
    timeout = 300
    unit = "error"

    def track_worked_example(self):
        return worst_of_worked()
