"""Starts of EM: clusters that whitening makes hard to separate, outliers, singular solutions."""

import _thread
import signal
import threading
import time

import numpy as np
import pytest

import fastvi as fv
from fastvi.common import threads
from fastvi.em import coordinates


def clusters(seed, d, k, n, spread):
    """Points around k centres, and the mixture that they come from."""
    rng = np.random.default_rng((seed, d, k))
    centres = spread * rng.normal(size=(k, d))
    labels = np.repeat(np.arange(k), n // k)
    return centres[labels] + rng.normal(size=(labels.size, d)), centres


@pytest.mark.parametrize("units", ["same", "different", "correlated"])
@pytest.mark.parametrize(("d", "k", "spread"), [(2, 4, 6.0), (10, 5, 2.0), (50, 3, 2.0), (50, 3, 1.0)])
def test_clusters_are_found_in_many_dimensions(units, d, k, spread):
    for seed in range(2 if d < 50 else 1):
        x, centres = clusters(seed, d, k, 30 * d + 300, spread)
        rng = np.random.default_rng(seed)
        matrix = np.eye(d)
        if units == "different":
            matrix = np.diag(10.0 ** rng.uniform(-3.0, 3.0, d))
        if units == "correlated":
            matrix = np.linalg.qr(rng.standard_normal((d, d)))[0] * 10.0 ** rng.uniform(-0.5, 0.5, d)
        moved = x @ matrix.T
        start = fv.GaussianMixture(np.full(k, 1 / k), centres @ matrix.T, [matrix @ matrix.T] * k)
        best = fv.fit_mixture(moved, k, start=start, tol=1e-8).log_likelihood
        fit = fv.fit_mixture(moved, k, restarts=6, tol=1e-8)
        assert fit.converged
        assert fit.log_likelihood >= best - 1e-3


@pytest.mark.parametrize(
    ("kind", "d", "k", "spread"), [("diag", 50, 50, 2.0), ("spherical", 50, 50, 1.0), ("full", 10, 20, 2.0)]
)
def test_many_clusters_are_found(kind, d, k, spread):
    """k-means++ misses some of them, which no iteration finds later."""
    x, centres = clusters(0, d, k, 60 * k, spread)
    start = fv.GaussianMixture(np.full(k, 1 / k), centres, [np.eye(d)] * k)
    best = fv.fit_mixture(x, k, covariance=kind, start=start, tol=1e-8).log_likelihood
    fit = fv.fit_mixture(x, k, covariance=kind, restarts=3, tol=1e-8)
    assert fit.converged
    assert fit.log_likelihood >= best - 1e-3


@pytest.mark.parametrize("far", [1e3, 1e6, 1e8])
@pytest.mark.parametrize("kind", ["full", "diag", "spherical", "tied"])
def test_clusters_are_found_beside_outliers(kind, far):
    """Both where the outliers have a component to themselves, and where they have none."""
    x, centres = clusters(3, 5, 3, 600, 3.0)
    outliers = far * np.random.default_rng(1).normal(size=(5, 5))
    dirty = np.concatenate([x, outliers])
    for k in (3, 4):
        weights, means, covs = np.full(3, 1 / 3), list(centres), [np.eye(5)] * 3
        if k == 4 and kind != "tied":
            weights, means = np.r_[weights * (1 - 5 / 605), 5 / 605], [*means, outliers.mean(axis=0)]
            covs = [*covs, far**2 * np.eye(5)]
        best = fv.fit_mixture(
            dirty, len(means), covariance=kind, start=fv.GaussianMixture(weights, means, covs), tol=1e-8
        )
        fit = fv.fit_mixture(dirty, k, covariance=kind, tol=1e-8, max_iterations=300)
        assert fit.log_likelihood >= best.log_likelihood - 1e-3


def test_the_number_of_components_beside_an_outlier():
    """The floor holds the component of the outlier, for any number; what it adds chooses none."""
    centres = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 200, axis=0)
    x = centres + np.random.default_rng(0).standard_normal((600, 2))
    fit = fv.fit_mixture(np.concatenate([x, [[1e6, -1e6]]]), range(1, 7), tol=1e-8)
    assert fit.mixture.weights.size == 4
    assert fit.floor_active


def test_an_outlier_does_not_set_the_floor():
    for seed, far in ((0, 1e6), (1, -1e9), (2, 1e4)):
        rng = np.random.default_rng(seed)
        x = np.concatenate([rng.normal(0, 1, 500), rng.normal(6, 1, 500), [far]])
        fit = fv.fit_mixture(x, 3)
        inner = np.sort(np.sqrt(fit.mixture.covs.ravel()))[1:]
        np.testing.assert_allclose(inner, 1.0, atol=0.1)
        assert fit.status.startswith("converged, component")
        for kind in ("diag", "spherical"):
            other = fv.fit_mixture(x, 3, covariance=kind)
            np.testing.assert_allclose(other.mixture.covs, fit.mixture.covs, rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2, 20])
def test_outliers_are_left_out_of_the_frame(d):
    rng = np.random.default_rng(d)
    matrix = rng.standard_normal((d, d))
    x = rng.standard_normal((600, d)) @ matrix.T
    clean = coordinates.whitened(x, None)
    assert coordinates._outliers(clean.columns.T, None) is None
    dirty = np.concatenate([x, 1e7 * rng.standard_normal((3, d))])
    frame = coordinates.whitened(dirty, None)
    np.testing.assert_allclose(frame.factor, clean.factor, rtol=1e-9)
    np.testing.assert_allclose(frame.mean + (frame.factor @ frame.columns).T, dirty, rtol=1e-9, atol=1e-6)
    weighted = coordinates.whitened(dirty, np.full(603, 2.5))
    np.testing.assert_allclose(weighted.factor, clean.factor, rtol=1e-9)


def test_far_clusters_are_no_outliers():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((80, 2)), 1e4 + rng.standard_normal((20, 2))])
    frame = coordinates.whitened(x, None)
    np.testing.assert_allclose(frame.factor @ frame.factor.T, np.cov(x.T, bias=True), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_repeated_points_without_a_floor_end_singular(seed):
    """All points of a cluster are equal, or on a line that is not parallel to an axis."""
    rng = np.random.default_rng(seed)
    line = rng.standard_normal((30, 1)) * rng.standard_normal(2) + 40.0
    for x in (np.r_[np.zeros(3), np.linspace(5, 6, 50)], np.r_[line, rng.standard_normal((100, 2))]):
        fit = fv.fit_mixture(x, 2, min_cov=0, rng=seed)
        assert fit.status.startswith("stopped: a covariance became singular")
        assert fit.is_singular
        assert not fit.converged
        assert "none reached a maximum" in fit.summary()


def test_an_interrupt_ends_a_fit():
    x, _ = clusters(0, 4, 4, 200_000, 0.1)
    started = threading.Event()

    def interrupt():
        started.wait()
        time.sleep(0.5)
        _thread.interrupt_main()

    fv.fit_mixture(x[:2000], 30, restarts=1, max_iterations=2)  # compiles
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # test runners ignore it in workers
    try:
        threading.Thread(target=interrupt).start()
        started.set()
        with pytest.raises(KeyboardInterrupt):
            fv.fit_mixture(x, 30, tol=0.0)
    finally:
        signal.signal(signal.SIGINT, before)
    for one in threading.enumerate():
        if one.name == "fastvi":
            one.join(20.0)
            assert not one.is_alive()


def test_errors_of_tasks_are_raised():
    done = []

    def task(i):
        if i == 3:
            raise ZeroDivisionError
        done.append(i)

    with pytest.raises(ZeroDivisionError):
        threads.run_interruptibly(task, 8, 2, lambda: None)
    assert set(done) >= {0, 1, 2}
