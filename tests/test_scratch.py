"""Scratch space: kept within bounds, one owner at a time, and what models remember does not pile up."""

import gc
import subprocess
import sys
import threading
import weakref

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import scratch
from fastvi.inference import compilation


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
    # What is in use need not be kept: the last one is.
    held = id(other)
    del mine, other
    assert id(scratch.space(make, 100)) == held
    assert len(kept) == 1


def test_few_spaces_are_kept(kept):
    for size in range(1, 200):
        scratch.space(make, size)
    assert len(kept) == scratch.MOST
    scratch.space(make, 200 - scratch.MOST)  # the oldest, which is the newest after this
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


FORK = """
import os, sys, threading
import numpy as np
import fastvi as fv
p = fv.GaussianMixture([0.4, 0.6], [-1, 2], [1, 0.5])
value = fv.kl_estimate(p, fv.Gaussian(0, 1)).value
child = os.fork()
if not child:
    os._exit(0 if fv.kl_estimate(p, fv.Gaussian(0, 1)).value == value else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "0", done.stderr


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


def test_functions_of_models_that_are_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr(compilation, "_MOST", 2)
    monkeypatch.setattr(compilation, "_jits", {})
    monkeypatch.setattr(compilation, "_compiled", {})
    functions, first = [], None
    for k in range(5):
        function = eval(f"lambda z, x: -0.5 * (x - z[0]) ** 2 + {k}")
        model = fv.Model(function, 1, (1.0,))
        first = model if first is None else first
        functions.append(weakref.ref(function))
        del function, model
    gc.collect()
    assert len(compilation._jits) == len(compilation._compiled) == 2
    # The first lives on in its model, the last two for the next model.
    assert [function() is not None for function in functions] == [True, False, False, True, True]
    q = fv.Gaussian(1.0, 1.0)
    assert fv.elbo(first, q).value == fv.elbo(fv.Model(quadratic, 1, (1.0,)), q).value
    # Copies keep the compiled function as well.
    other = first.with_data((2.0,))
    del first
    gc.collect()
    assert other.log_density([2.0]) == 0.0
    assert (
        abs(fv.elbo(other, fv.Gaussian(2.0, 1.0)).value - fv.elbo(other, fv.Gaussian(2.0, 1.0)).value) == 0.0
    )


def test_a_forgotten_function_is_compiled_again(monkeypatch):
    monkeypatch.setattr(compilation, "_MOST", 1)
    monkeypatch.setattr(compilation, "_jits", {})
    monkeypatch.setattr(compilation, "_compiled", {})

    def other(z, x):
        return -((x - z[0]) ** 2)

    fv.Model(quadratic, 1, (1.0,))
    before = compilation.compiled_count()
    fv.Model(quadratic, 1, (2.0,))
    assert compilation.compiled_count() == before
    fv.Model(other, 1, (1.0,))
    fv.Model(quadratic, 1, (1.0,))
    assert compilation.compiled_count() == before + 2


def test_modules_are_loaded_when_they_are_used():
    code = """
import sys
import fastvi as fv
lazy = "fastvi.cfuncs", "fastvi.plotting", "matplotlib", "fastvi.kernels.em"
assert not any(name in sys.modules for name in lazy)
assert {"cfuncs", "kernels", "plotting", "kl"} <= set(dir(fv))
assert fv.kernels.em.e_step.BLOCK and fv.cfuncs.kl and fv.plotting.plot_grid
try:
    fv.plots
except AttributeError as error:
    assert "no attribute 'plots'" in str(error)
else:
    raise AssertionError("fv.plots")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


DRAWS = {
    "Gaussian": lambda rng: fv.Gaussian([0, 1], np.eye(2)).sample(3, rng),
    "GaussianMixture": lambda rng: fv.GaussianMixture([0.4, 0.6], [-1, 2], [1, 1]).sample(3, rng),
    "Transformed": lambda rng: fv.TransformedGaussian(fv.Gaussian(0, 1), "positive", 1).sample(3, rng=rng),
    "Truncated": lambda rng: fv.TruncatedGaussian(0, 1, 0).sample(3, rng),
    "fit_mixture": lambda rng: (
        fv.fit_mixture(
            np.arange(40.0) ** 1.5, 3, restarts=2, max_iterations=1, rng=rng
        ).restart_log_likelihoods
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_rng(name):
    draw = DRAWS[name]
    one = draw(3)
    assert np.array_equal(one, draw(3))
    assert np.array_equal(one, draw(np.int64(3)))
    assert np.array_equal(one, draw(np.random.SeedSequence(3)))
    assert np.array_equal(one, draw(np.random.PCG64(3)))
    generator = np.random.default_rng(3)
    assert np.array_equal(one, draw(generator))
    assert not np.array_equal(one, draw(generator))  # it has been advanced
    assert not np.array_equal(one, draw(None))
    for bad in (True, 1.5, "1", {}, -1):
        error = ValueError if bad == -1 else TypeError
        with pytest.raises(error, match=rf"rng must be a .*Generator, an integer >= 0 or None, not {bad!r}"):
            draw(bad)


def test_rng_of_fits_and_checks():
    def gradient(z, grad, x):
        grad[0] = x - z[0]
        return -0.5 * (x - z[0]) ** 2

    model = fv.Model(quadratic, 1, (1.0,), log_joint_grad=gradient)
    zs = [fv.check_gradient(model, rng=rng).z[0] for rng in (0, np.random.default_rng(0), 1)]
    assert zs[0] == zs[1] == fv.check_gradient(model).z[0]
    assert zs[0] != zs[2]
    for call in (fv.check_gradient, fv.fit):
        with pytest.raises(TypeError, match="rng must be"):
            call(model, rng="one")
    generator = np.random.default_rng(5)
    fits = [fv.fit(model, "diag", method="sgd", rng=rng, steps=20) for rng in (5, generator, generator)]
    assert fits[0].q == fits[1].q != fits[2].q
