"""Projections and divergences of mixtures, and the sums over a grid."""

from __future__ import annotations

import numba
import numpy as np

import fastvi as fv
from fastvi import kernels

from . import sizes
from .projections import exact_optima, mixture, ring, start


class Projections:
    params = sizes(1, 2, 4, 8)
    param_names = ("components",)
    timeout = 300

    def setup(self, components):
        numba.set_num_threads(1)
        self.p = ring(components)
        self.q = fv.Gaussian(self.p.mean, self.p.cov)
        self.time_i_projection(components)
        self.time_kl(components)
        fv.m_projection(self.p)

    def time_i_projection(self, components):
        fv.i_projection(self.p)

    def time_hundred_m_projections(self, components):
        for _ in range(100):
            fv.m_projection(self.p)

    def time_kl(self, components):
        fv.kl(self.p, self.q)


class Dimensions:
    """All I-projections of a mixture of two, three standard deviations apart on each axis."""

    params = sizes(1, 2, 3)
    param_names = ("dim",)
    timeout = 300

    def setup(self, dim):
        numba.set_num_threads(1)
        offset = 3.0 / np.sqrt(dim)
        self.p = fv.GaussianMixture([0.4, 0.6], [[-offset] * dim, [offset] * dim], [np.eye(dim)] * 2)
        self.time_i_projection(dim)

    def time_i_projection(self, dim):
        fv.i_projection(self.p)


class Grids:
    params = sizes(51, 101, 201, 401)
    param_names = ("points",)
    timeout = 300

    def setup(self, points):
        numba.set_num_threads(1)
        self.grid = fv.Grid2D.from_distribution(mixture(), [(-7, 7), (-7, 7)], (points, points))
        self.mean, self.chol = start()
        self.arguments = self.grid._arrays, np.empty(2), np.empty((2, 2)), kernels.grids.workspace()
        self.time_value_and_gradient(points)
        self.time_i_projection(points)

    def time_value_and_gradient(self, points):
        arrays, grad_mean, grad_chol, space = self.arguments
        kernels.grids.grid_reverse_kl(*arrays, self.mean, self.chol, grad_mean, grad_chol, space)

    def time_i_projection(self, points):
        fv.i_projection(self.grid)


class Products:
    """Projections of a joint table of three axes onto products."""

    params = sizes(4, 10, 30)
    param_names = ("values",)
    timeout = 300

    def setup(self, values):
        numba.set_num_threads(1)
        rng = np.random.default_rng(20240229)
        self.table = rng.dirichlet(np.ones(values**3)).reshape(values, values, values)
        self.time_i_projection(values)
        self.time_m_projection(values)

    def time_i_projection(self, values):
        fv.i_projection(self.table, "product")

    def time_m_projection(self, values):
        fv.m_projection(self.table, "product")


class Errors:
    """Relative errors, to be below 1e-8."""

    timeout = 300

    def setup(self):
        self.exact = exact_optima(mixture())

    def track_i_projection(self):
        found = np.array([optimum.kl for optimum in fv.i_projection(mixture()).optima])
        return float(np.max(np.abs(found - self.exact) / self.exact))
