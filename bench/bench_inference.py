"""Fits, bounds and evidences of models, and the accuracy of the worked example."""

from __future__ import annotations

import functools

import numba
import numpy as np

import fastvi as fv
from fastvi.kernels.inference import steps

from . import sizes
from .bench_arrays import use_threads
from .growth_models import logistic, logistic_gradient
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


# Models are kept: asv repeats `setup` before each timing, and they compile.


@functools.cache
def regression_model(dim):
    """Its posterior is Gaussian."""
    rng = np.random.default_rng(20240229)
    x = rng.standard_normal((40, dim))
    return fv.Model(regression, dim, data=(x, x.sum(axis=1) + rng.standard_normal(40)))


@functools.cache
def worked_model(x, support):
    return fv.Model(worked, 1, data=(x,), support=support)


class Bounds:
    """The parts of a fit: by quadrature up to dimension 2, on draws above."""

    params = sizes(1, 2, 5, 20)
    param_names = ("dim",)
    timeout = 300

    def setup(self, dim):
        numba.set_num_threads(1)
        self.model = regression_model(dim)
        self.q = fv.Gaussian(np.zeros(dim), 0.1 * np.eye(dim))
        for method in (self.time_elbo, self.time_elbo_grad, self.time_one_step):
            method(dim)

    def time_elbo(self, dim):
        fv.elbo(self.model, self.q)

    def time_elbo_grad(self, dim):
        fv.elbo_grad(self.model, self.q)

    def time_one_step(self, dim):
        fv.fit(self.model, "diag", start=self.q, max_steps=1)


quartic = numba.njit(lambda z, x: -0.5 * (z * z).sum() - 0.1 * ((z - x) ** 4).sum())


@numba.njit
def _hundred_steps(x, kinds, bounds, mean, chol, space):
    for _ in range(100):
        steps.natural_gradient_step(quartic, ((x,), kinds, bounds), 0.1, mean, chol, 1e-8, space)


class NaturalGradient:
    """A hundred steps in the user's own compiled code, in two dimensions."""

    timeout = 300

    def setup(self):
        self.support = np.zeros(2, np.int64), np.zeros((2, 2))
        self.space = steps.natural_workspace(2, 2)
        self.time_hundred_steps()

    def time_hundred_steps(self):
        _hundred_steps(1.0, *self.support, np.zeros(2), np.eye(2), self.space)


class Fits:
    params = (("full", "diag", "isotropic"), sizes(1, 2, 5, 20))
    param_names = ("family", "dim")
    timeout = 300

    def setup(self, family, dim):
        numba.set_num_threads(1)
        self.model = regression_model(dim)
        self.time_fit(family, dim)

    def time_fit(self, family, dim):
        fv.fit(self.model, family)


class Schools:
    params = ("with", "without")
    param_names = ("gradient",)
    timeout = 300

    def setup(self, gradient):
        numba.set_num_threads(1)
        self.model = schools_model(gradient == "with").with_data((EFFECTS, ERRORS))
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
        self.model = worked_model(5.0, support)
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
    params = (sizes(1, 100, 10_000), sizes(1, 2))
    param_names = ("data sets", "threads")
    timeout = 300

    def setup(self, count, threads):
        use_threads(threads)
        self.model = worked_model(1.0, "positive")
        self.x = observations()[0][:count]
        self.time_fit_batch(count, threads)

    def time_fit_batch(self, count, threads):
        fv.fit_batch(self.model, (self.x,), "diag")


class Rows:
    """A fit of a log joint of many rows, each call of which takes milliseconds."""

    params = (sizes(1_000, 100_000), sizes(1, 2))
    param_names = ("rows", "threads")
    timeout = 300

    def setup(self, rows, threads):
        use_threads(threads)
        rng = np.random.default_rng(20240303)
        x = rng.standard_normal((rows, 10))
        self.data = x, (rng.random(rows) < 1.0 / (1.0 + np.exp(x @ np.linspace(-0.5, 0.5, 10)))).astype(float)
        self.model = fv.Model(logistic, 10, self.data, log_joint_grad=logistic_gradient)
        fv.elbo(self.model, fv.Gaussian(np.zeros(10), 1e-4 * np.eye(10)))  # sees whether it is expensive

    def time_fit(self, rows, threads):
        fv.fit(self.model)


class Memory:
    """Many fits at once, each with a trace of its own."""

    params = sizes(100, 10_000, 100_000)
    param_names = ("data sets",)
    timeout = 300

    def setup_cache(self):
        # Compiled in this process, so that the peak of the measured ones is not the compiler's.
        self.setup(100)

    def setup(self, count):
        numba.set_num_threads(1)
        self.model = worked_model(1.0, "positive")
        self.x = np.resize(observations()[0], count)
        fv.fit_batch(self.model, (self.x[:2],), "diag")

    def peakmem_fit_batch(self, count):
        fv.fit_batch(self.model, (self.x,), "diag")


def random_effects(z, theta, x):
    """z ~ N(theta, 1) and x ~ N(z, 1)."""
    return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * ((x - z[0]) ** 2).sum()


@functools.cache
def random_effects_model(n):
    x = np.random.default_rng(20240229).normal(2.0, 1.5, n)
    return fv.Model(random_effects, 1, data=(x,), theta=[0.0])


class Learning:
    """Maximum likelihood by raising the ELBO in q and theta alternately."""

    params = sizes(10, 1_000)
    param_names = ("n",)
    timeout = 300

    def setup(self, n):
        numba.set_num_threads(1)
        self.model = random_effects_model(n)
        self.time_maximize_evidence(n)

    def time_maximize_evidence(self, n):
        fv.maximize_evidence(self.model)


class Accuracy:
    timeout = 300
    unit = "error"

    def track_worked_example(self):
        return worst_of_worked()
