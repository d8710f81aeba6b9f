"""Scratch space: one owner at a time, and bounded."""

import sys
import threading

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import scratch
from helpers.programs import run_program


def make(size, parts=1):
    return tuple(np.empty(size) for _ in range(parts)), np.empty(1)


@pytest.fixture
def kept(monkeypatch):
    """This thread's cache, empty, for the time of a test."""
    monkeypatch.setattr(scratch, "_kept", scratch._Kept())
    return scratch._kept.spaces


def total(spaces):
    return sum(size for _, size in spaces.values())


def test_the_same_space_comes_back(kept):
    first = id(scratch.space(make, 100))
    assert id(scratch.space(make, 100)) == first
    assert id(scratch.space(make, 100, 2)) != first
    assert id(scratch.space(make, 100)) == first
    assert total(kept) == 8 * (100 + 1 + 200 + 1)


def test_a_space_in_use_is_not_handed_out_again(kept):
    mine = scratch.space(make, 100)
    other = scratch.space(make, 100)
    assert mine is not other
    assert not np.shares_memory(mine[0][0], other[0][0])
    # Only the last of the spaces in use is kept.
    held = id(other)
    del mine, other
    assert id(scratch.space(make, 100)) == held
    assert len(kept) == 1


def test_few_spaces_are_kept(kept):
    for size in range(1, 200):
        scratch.space(make, size)
    assert len(kept) == scratch.MOST
    scratch.space(make, 200 - scratch.MOST)  # the oldest, used again
    scratch.space(make, 1000)
    assert (make, (200 - scratch.MOST,)) in kept
    assert (make, (201 - scratch.MOST,)) not in kept


def test_bytes_are_bounded(kept, monkeypatch):
    monkeypatch.setattr(scratch, "MOST_BYTES", 10_000)
    for size in range(300, 400):
        scratch.space(make, size)
        assert total(kept) <= 10_000
    assert len(kept) > 1
    large = scratch.space(make, 5000)
    assert [found for found, _ in kept.values()] == [large]
    del large
    scratch.space(make, 10)
    assert len(kept) == 1


def test_threads_do_not_share(kept):
    spaces, barrier = [], threading.Barrier(4)

    def take():
        found = scratch.space(make, 100)
        barrier.wait()
        spaces.append(found)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        for j in range(i):
            assert not np.shares_memory(spaces[i][0][0], spaces[j][0][0])
    assert not kept


def test_what_the_api_keeps_is_bounded(kept):
    """Mixtures of many sizes, with the same results as from a new space."""
    found, sizes = [], []
    for _ in range(2):
        for k in range(2, 50):
            p = fv.GaussianMixture(np.full(k, 1 / k), np.arange(k), np.ones(k))
            found.append(fv.kl_estimate(p, fv.Gaussian(0.0, 900.0)).value)
            sizes.append(len(kept))
    assert found[:48] == found[48:]
    assert max(sizes) <= scratch.MOST


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child():
    assert run_program("fork_with_scratch") == "0\n"


def quadratic(z, x):
    return -0.5 * (x - z[0]) ** 2


def test_a_log_joint_that_calls_fastvi_again():
    """Object mode lets a log joint run Python, and so the same kernels on the same thread."""
    inner = fv.Model(quadratic, 1, (3.0,))

    def ask(value):
        return fv.elbo(inner, fv.Gaussian(3.0, 1.0)).value + value

    @numba.njit
    def outer(z, x):
        with numba.objmode(value="float64"):
            value = ask(-0.5 * (x - z[0]) ** 2)
        return value + 0.0

    expected = fv.elbo(inner, fv.Gaussian(3.0, 1.0)).value
    plain = fv.elbo(fv.Model(quadratic, 1, (1.0,)), fv.Gaussian(0.5, 2.0)).value
    found = fv.elbo(fv.Model(outer, 1, (1.0,)), fv.Gaussian(0.5, 2.0), rtol=1e-6).value
    assert abs(found - expected - plain) <= 1e-6


def test_a_plain_log_joint_in_object_mode():
    """Its Python objects reach it, though it is linked into another function."""

    def log_joint(z, x):
        with numba.objmode(value="float64"):
            value = float(np.sum([-0.5 * (x - z[0]) ** 2, 1.0]))
        return value + 0.0

    found = fv.elbo(fv.Model(log_joint, 1, (1.0,)), fv.Gaussian(0.5, 2.0), rtol=1e-6).value
    plain = fv.elbo(fv.Model(quadratic, 1, (1.0,)), fv.Gaussian(0.5, 2.0)).value
    assert abs(found - plain - 1.0) <= 1e-6
