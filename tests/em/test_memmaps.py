"""Data that are read in blocks: the same fit as of data in memory, in little memory."""

import tracemalloc

import numpy as np
import pytest

import fastvi as fv
from fastvi.em import blocks
from helpers.messages import says
from helpers.mixtures import clouds


@pytest.fixture
def small(monkeypatch):
    """Blocks of 300 rows, and a sample of 400, for any memmap."""
    for name, value in (("LARGE", 0), ("ROWS", 300), ("SAMPLE", 400)):
        monkeypatch.setattr(blocks, name, value)


def mapped(path, x):
    out = np.memmap(path / "x.bin", x.dtype, "w+", shape=x.shape)
    out[...] = x
    return out


@pytest.mark.parametrize("kind", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_fit_of_data_in_memory(kind, weighted, small, tmp_path):
    x, _ = clouds(41, 1000, 3, 3, spread=4.0)
    counts = np.random.default_rng(0).integers(0, 3, 1000).astype(float) if weighted else None
    options = {"covariance": kind, "weights": counts, "tol": 1e-16}
    fit = fv.fit_mixture(mapped(tmp_path, x), 3, **options)
    own = fv.fit_mixture(x, 3, **options)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(own.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(fit.mixture.means, own.mixture.means, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fit.mixture.covs, own.mixture.covs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fit.responsibilities, own.responsibilities, atol=1e-4)
    assert (np.diff(fit.trace) >= -1e-12 * np.abs(fit.trace[1:])).all()
    assert fit.bic == pytest.approx(own.bic, rel=1e-9)


def test_priors_and_float32(small, tmp_path):
    x, start = clouds(42, 700, 2, 2)
    prior = {"concentration": 2.0, "degrees_of_freedom": 6.0, "scale": np.eye(2)}
    x32 = x.astype(np.float32)
    options = {"start": start, "prior": prior, "tol": 1e-18}
    fit = fv.fit_mixture(mapped(tmp_path, x32), 2, **options)
    own = fv.fit_mixture(x32.astype(float), 2, **options)
    assert fit.log_prior == pytest.approx(own.log_prior, rel=1e-8)
    assert fit.trace[-1] == pytest.approx(own.trace[-1], rel=1e-10)


def test_the_bits_are_the_same_on_any_number_of_threads(small, tmp_path):
    x = mapped(tmp_path, clouds(43, 2000, 2, 3)[0])
    many = fv.fit_mixture(x, 3)
    try:
        fv.set_num_threads(1)
        one = fv.fit_mixture(x, 3)
    finally:
        fv.set_num_threads(None)
    assert one.mixture == many.mixture


def test_the_memory_does_not_grow_with_the_data(tmp_path):
    """67 MB of data in less than 60: blocks on two threads, and the sample."""
    n = 1 << 20
    x = np.memmap(tmp_path / "x.bin", np.float64, "w+", shape=(n, 8))
    rng = np.random.default_rng(0)
    for first in range(0, n, 1 << 16):
        x[first : first + (1 << 16)] = rng.normal(size=(1 << 16, 8)) + 6.0 * rng.integers(0, 2, (1 << 16, 1))
    tracemalloc.start()
    try:
        fit = fv.fit_mixture(x, 2, restarts=1, max_iterations=4, tol=0.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60e6
    np.testing.assert_allclose(fit.mixture.means, [[0.0] * 8, [6.0] * 8], atol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_entries_that_are_not_finite_are_named(value, small, tmp_path):
    x = np.random.default_rng(0).normal(size=(900, 2))
    x[812, 1] = value
    with says(ValueError, f"x[812, 1] is {value}", "read in blocks"):
        fv.fit_mixture(mapped(tmp_path, x), 2)
