"""Values of the kernels of projections as JSON; run with the compiler and without."""

import json

import numpy as np

from fastvi.kernels import estimates, gaussians, mixtures, projections
from fastvi.kernels import grids as grids_
from fastvi.kernels.densities import grids

values = {}
for dim in (1, 2):
    means = np.zeros((2, dim))
    means[:, 0] = -1.5, 1.0
    factors = np.stack([np.eye(dim), 1.3 * np.eye(dim)])
    if dim == 2:
        factors[1, 1, 0] = 0.4
    p = np.log([0.3, 0.7]), means, factors
    mean, chol = np.full(dim, 0.25), 0.8 * np.eye(dim)
    space = np.empty(2 * dim)
    values[f"gaussian_kl {dim}"] = gaussians.gaussian_kl(mean, chol, means[1], factors[1], space)
    values[f"gaussian_logpdf {dim}"] = gaussians.gaussian_logpdf(means[0], mean, chol, space)
    values[f"mixture_logpdf {dim}"] = mixtures.mixture_logpdf(mean, *p, space)
    grad_mean, grad_chol = np.empty(dim), np.empty((dim, dim))
    space = estimates.workspace(2, 2, dim)
    value, error = estimates.reverse_kl(*p, mean, chol, 1e-6, grad_mean, grad_chol, space)
    values[f"reverse_kl {dim}"] = [value, *grad_mean, *grad_chol.ravel()]
    q = np.zeros(1), mean[None], chol[None]
    values[f"mixture_kl {dim}"] = estimates.mixture_kl(p, q, 1e-6, space)[0]
    for family in range(3):
        m, c = np.empty(dim), np.empty((dim, dim))
        assert projections.m_projection(*p, family, m, c)
        values[f"m_projection {dim} {family}"] = [*m, *c.ravel()]
        m, c, report = mean.copy(), chol.copy(), np.empty(5)
        status = projections.i_projection(*p, family, m, c, 1e-6, projections.workspace(2, dim), report)
        assert status == 0
        values[f"i_projection {dim} {family}"] = [*m, *c.ravel(), report[0]]
x, y = np.linspace(-4.0, 4.0, 17), np.linspace(-3.0, 3.0, 15)
log_p = -0.5 * (x[:, None] ** 2 + y[None, :] ** 2)
a, b = np.empty(17), np.empty(15)
grids.trapezoid(x, a)
grids.trapezoid(y, b)
log_p -= np.log((np.multiply.outer(a, b) * np.exp(log_p)).sum())
mean, chol = np.array([0.3, 0.1]), np.array([[0.9, 0.0], [0.2, 0.7]])
grad_mean, grad_chol = np.empty(2), np.empty((2, 2))
value, mass = grids_.grid_reverse_kl(x, y, a, b, log_p, mean, chol, grad_mean, grad_chol, grids_.workspace())
values["grid_reverse_kl"] = [value, mass, *grad_mean, *grad_chol.ravel()]
print(json.dumps(values))
