"""Errors of closed forms that bound what rounding does, and are not much wider than that."""

import math
import tracemalloc

import mpmath
import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions import integrals
from fastvi.distributions.rounding import residual
from reference import densities as reference


def test_residuals_have_more_than_double_precision():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(7, 40)) * np.exp(10 * rng.normal(size=(7, 1))), rng.normal(size=(40, 5))
    target = left @ right
    found = residual(target, left, right)
    with mpmath.workdps(50):
        for i, j in np.ndindex(7, 5):
            products = mpmath.fdot(left[i].tolist(), right[:, j].tolist())
            size = np.abs(left[i]).max() * np.abs(right[:, j]).max()
            assert abs(target[i, j].item() - products - found[i, j].item()) < 1e-18 * size


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10, 1e13])
@pytest.mark.parametrize("kind", ["spread", "needle"])
def test_near_singular_gaussians(condition, kind):
    rng, dim = np.random.default_rng((7, int(math.log10(condition)))), 8
    axes, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
    spread = np.logspace(0, -math.log10(condition), dim)
    variances = spread if kind == "spread" else np.r_[1.0 / condition, np.ones(dim - 1)]
    cov = (axes * variances) @ axes.T
    cov = 0.5 * (cov + cov.T)
    p = fv.Gaussian(rng.normal(size=dim) / math.sqrt(condition), cov)
    others = [np.diag(np.diag(cov)), cov + np.diag(np.diag(cov)) / condition]
    with mpmath.workdps(60):
        for other in others:
            q = fv.Gaussian(np.zeros(dim), other)
            for one, two in ((p, q), (q, p)):
                e = fv.kl_estimate(one, two)
                missed = abs(float(e.value - reference.gaussian_kl(one.mean, one.cov, two.mean, two.cov)))
                assert missed <= e.error <= 1e3 * (missed + 1e-15 * e.value)
        entropy = fv.entropy_estimate(p)
        missed = abs(float(entropy.value - reference.gaussian_entropy(p.cov)))
        assert missed <= entropy.error <= 1e3 * (missed + 1e-15 * abs(entropy.value))


@pytest.mark.parametrize("gap", [2.0**-10, 2.0**-40])
def test_nearly_equal_coordinates_in_many_dimensions(gap):
    # All correlations are 1 - gap: the eigenvalues are gap, and once D - (D - 1) gap.
    dim = 300
    p = fv.Gaussian(np.zeros(dim), np.full((dim, dim), 1.0 - gap) + gap * np.eye(dim))
    q = fv.Gaussian(np.zeros(dim), np.eye(dim))
    with mpmath.workdps(40):
        small, large = mpmath.mpf(gap), dim - (dim - 1) * mpmath.mpf(gap)
        log_det = (dim - 1) * mpmath.log(small) + mpmath.log(large)
        truths = -log_det / 2, ((dim - 1) / small + 1 / large - dim + log_det) / 2
        for e, truth in zip((fv.kl_estimate(p, q), fv.kl_estimate(q, p)), truths, strict=True):
            missed = abs(float(e.value - truth))
            assert missed <= e.error <= 1e4 * (missed + 1e-15 * e.value)


def test_widths_far_apart():
    for p, q in ((1e-300, 1.0), (1e300, 1e-5), (1e-30, 1e-30)):
        e = fv.kl_estimate(fv.Gaussian(0, p), fv.Gaussian(0, q))
        assert e.error <= 1e-13 * e.value + 1e-30


@pytest.mark.parametrize("condition", [1e6, 1e13])
def test_far_components_near_singular(condition):
    # Components that do not overlap: both sums are known, and bounds in closed form meet there.
    rng, dim = np.random.default_rng(3), 5
    covs, others = np.empty((2, 3, dim, dim))
    for k in range(3):
        axes, _ = np.linalg.qr(rng.normal(size=(dim, dim)))
        cov = (axes * np.logspace(0, -math.log10(condition), dim)) @ axes.T
        covs[k], others[k] = 0.5 * (cov + cov.T), np.diag(np.diag(cov))
    means = 1e9 * rng.normal(size=(3, dim))
    p, q = (fv.GaussianMixture([0.5, 0.25, 0.25], means, c) for c in (covs, others))
    with mpmath.workdps(60):
        entropy = 1.5 * mpmath.log(2)
        divergence = mpmath.mpf(0)
        for weight, mean, one, two in zip(p.weights, means, p.covs, q.covs, strict=True):
            entropy += float(weight) * reference.gaussian_entropy(one)
            divergence += float(weight) * reference.gaussian_kl(mean, one, mean, two)
        for e, truth in ((fv.entropy_estimate(p), entropy), (fv.kl_estimate(p, q), divergence)):
            assert abs(float(e.value - truth)) <= 3.0 * e.error
            assert e.error <= 0.1


def test_averages_over_points_have_no_factor_for_each(monkeypatch):
    monkeypatch.setattr(integrals, "_POINTS", 64)
    p = fv.Gaussian(np.zeros(200), np.eye(200))
    integrals.quasi_monte_carlo(p, None)
    tracemalloc.start()
    average = integrals.quasi_monte_carlo(p, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert abs(average.value - p.entropy()) < 4.0 * average.error
    assert peak < 4_000_000  # 23 MB with a factor for each point: 32 GB in 1000 dimensions
