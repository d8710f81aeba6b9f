"""Kernels of discrete divergences: compiled and plain, against the reference, and by chunks and rows."""

import math

import numpy as np
import pytest

from fastvi.kernels.discrete import all_pairs, divergences, scaled, terms
from fastvi.kernels.discrete.masses import ANY, NORMALIZE, UNIT
from fastvi.kernels.discrete.normalized import CHUNK
from fastvi.kernels.discrete.registry import METRICS
from helpers.divergence_rows import parameters, theta
from helpers.forms import JIT, all_plain, plain
from helpers.mixtures import frozen
from reference import discrete as reference

pytestmark = pytest.mark.usefixtures("quiet")


def pair(seed, n, dtype=np.float64):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(n), size=2).astype(dtype)
    return p, q


every = pytest.mark.parametrize("name", METRICS)


def truth(name, p, q, **keywords):
    return reference.exact(name, p, q, **parameters(name), **keywords)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-6)])
@pytest.mark.parametrize("n", [1, 5, 70, 300])
def test_against_the_reference(name, dtype, tolerance, n):
    p, q = pair(n, n, dtype)
    value = divergences.KERNELS[name].whole(p, q, theta(name), UNIT)
    assert reference.relative_error(value, truth(name, p, q)) <= tolerance
    assert isinstance(value, float), "float32 is summed in float64"


@pytest.mark.parametrize(
    "alpha", [-300.0, -0.2, 1e-300, 0.3, 0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-5, 1.7, 2.5, 1e6]
)
def test_one_term_of_an_order(alpha):
    """Where nothing cancels, where the exponential is small and where not, and on both sides in between."""
    rng = np.random.default_rng(9)
    beta = max(alpha, 1.0 - alpha) - 1.0
    between = math.log(2.0) / 2.0 / abs(beta) if beta != 0.0 else 1.0
    sizes = [*10.0 ** rng.uniform(-12.0, 2.0, 60), between * (1.0 - 1e-9), between * (1.0 + 1e-9), between]
    for x in (size * sign for size in sizes if size < 200.0 for sign in (1.0, -1.0)):
        p, q = math.exp(x), 1.0
        value = terms.alpha_term(p, q, p - q, (alpha, 0.0))
        expected = reference.exact("alpha_divergence", np.array([p]), np.array([q]), alpha=alpha, mass="any")
        # The error of an exponent is that of its last digit.
        bound = 1e-14 + 3e-16 * abs(x) * (1.0 + abs(beta))
        assert (value == math.inf and expected > 1e300) or (
            reference.relative_error(value, expected) <= bound
        ), (p, value, float(expected))


@every
def test_logarithms_against_the_reference(name):
    p, q = np.log(pair(1, 40))
    value = divergences.KERNELS[name].log(p, q, theta(name), UNIT)
    assert reference.relative_error(value, truth(name, p, q, log=True)) <= 1e-13


@pytest.mark.parametrize("alpha", [-40.0, -2.0, 0.0, 1e-300, 0.5, 1.0, 1.0 - 1e-9, 2.5, 3.0, 1e3])
def test_one_term_of_an_order_by_its_series(alpha):
    series = scaled._alpha_series(alpha)
    reach = series[-1]
    assert reach == min(0.05, 0.25 / max(abs(2.0 * alpha - 1.0), 1.0))
    q = 0.7
    for s in (size * sign for size in (1e-12, 1e-4, 0.3, 0.999, 1.001) for sign in (reach, -reach)):
        p = q * (1.0 + s) / (1.0 - s)
        value = scaled._near_alpha_term(p, q, p - q, series)
        if abs(s) > reach:
            assert math.isnan(value)
            continue
        expected = reference.exact("alpha_divergence", np.array([p]), np.array([q]), alpha=alpha, mass="any")
        assert reference.relative_error(value, expected) <= 1e-15
    assert scaled._near_alpha_term(q, q, 0.0, series) == scaled._near_alpha_term(0.0, 0.0, 0.0, series) == 0.0


@every
@pytest.mark.parametrize("kind", ["apart", "near", "zeros"])
def test_compiled_and_plain_agree(name, kind):
    p, q = pair(2, 60)
    if kind == "near":
        q = p * (1 + 1e-7)
    elif kind == "zeros":
        p[::3] = 0.0
    for kernel, x, y in [
        (divergences.KERNELS[name].whole, p, q),
        (divergences.KERNELS[name].log, np.log(p + 1e-3), np.log(q + 1e-3)),
    ]:
        value = kernel(x, y, theta(name), NORMALIZE)
        other = all_plain(kernel)(x, y, theta(name), NORMALIZE)
        assert value > 0.0
        assert value == pytest.approx(other, rel=1e-13, abs=0.0)


@every
def test_invalid_input_gives_nan(name):
    kernel, parameter = divergences.KERNELS[name].whole, theta(name)
    p, q = pair(3, 40)
    for value in (math.nan, math.inf, -math.inf, -1e-9, -1.0):
        for k in (0, 5, 39):
            bad = p.copy()
            bad[k] = value
            for mass in (UNIT, NORMALIZE, ANY):
                assert math.isnan(kernel(bad, q, parameter, mass)), (value, k, mass)
                assert math.isnan(kernel(q, bad, parameter, mass)), (value, k, mass)
    assert math.isnan(kernel(2.0 * p, q, parameter, UNIT))
    assert math.isnan(kernel(p, 2.0 * q, parameter, UNIT))
    assert math.isnan(kernel(np.zeros(3), np.ones(3), parameter, NORMALIZE))
    assert math.isnan(kernel(np.ones(3), np.zeros(3), parameter, NORMALIZE))


@every
def test_invalid_logarithms_give_nan(name):
    kernel, parameter = divergences.KERNELS[name].log, theta(name)
    p, q = np.log(pair(4, 40))
    for value in (math.nan, math.inf):
        bad = p.copy()
        bad[7] = value
        assert math.isnan(kernel(bad, q, parameter, NORMALIZE))
        assert math.isnan(kernel(q, bad, parameter, NORMALIZE))
    assert math.isnan(kernel(p + 1.0, q, parameter, UNIT))


@every
def test_zeros_and_infinities_survive_the_compiler(name):
    """What too loose fast-math flags break: 0 log 0, p > 0 = q, and tests for NaN."""
    kernel, parameter = divergences.KERNELS[name].whole, theta(name)
    for dtype in (np.float64, np.float32):
        p = np.zeros(100, dtype)
        p[::2] = 0.02
        unlike_entropy = 0.0 if name != "cross_entropy" else math.log(50)
        assert kernel(p, p.copy(), parameter, UNIT) == pytest.approx(unlike_entropy, abs=0.0, rel=1e-6)
        other = p[::-1].copy()
        assert reference.relative_error(kernel(p, other, parameter, UNIT), truth(name, p, other)) <= 1e-6
        p[2] = math.nan
        assert math.isnan(kernel(p, p[::-1].copy(), parameter, UNIT))


@pytest.mark.parametrize("name", [n for n, k in divergences.KERNELS.items() if k.partial is not None])
def test_chunks_add_up_to_the_whole(name):
    kernel, parameter = divergences.KERNELS[name], theta(name)
    n = 2 * CHUNK + 17 if JIT else CHUNK + 3
    p, q = pair(5, n)
    given = frozen(p, q)  # as the API has them
    chunks = -(-n // CHUNK)
    parts = np.full((chunks, 4), math.nan)
    for i in reversed(range(chunks)):
        kernel.partial(*given, parameter, i, i + 1, parts)
    value = kernel.finish(*given, parts, parameter, UNIT)
    assert value == kernel.whole(p, q, parameter, UNIT)
    assert value > 0.0


def test_kl_grad_writes_both_gradients():
    p, q = pair(6, 30)
    grads = np.full((2, 30), math.nan)
    value = divergences.kl_grad(p, q, grads[0], grads[1])
    other = np.empty((2, 30))
    assert plain(divergences.kl_grad)(p, q, other[0], other[1]) == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(grads, other, rtol=1e-13)
    np.testing.assert_allclose(grads[1], 1.0 - p / q, rtol=1e-12)


def test_rows():
    rng = np.random.default_rng(7)
    p, q = rng.dirichlet(np.ones(6), size=4), rng.dirichlet(np.ones(6), size=3)
    log_p, log_q = np.log(p), np.log(q)
    for array in (p, q, log_p, log_q):
        array.flags.writeable = False  # as the API hands them on: any other type is compiled again
    for name in METRICS:
        kernel, parameter = divergences.KERNELS[name], theta(name)
        ip, iq = np.divmod(np.arange(12), 3)
        rows = np.full(12, math.nan)
        all_pairs.ROWS[name](p, q, ip, iq, parameter, UNIT, rows)
        for i, j, value in zip(ip, iq, rows, strict=True):
            assert value == kernel.whole(p[i].copy(), q[j].copy(), parameter, UNIT)
        logs = np.full(12, math.nan)
        all_pairs.LOG_ROWS[name](log_p, log_q, ip, iq, parameter, UNIT, logs)
        np.testing.assert_allclose(logs, rows, rtol=1e-12)
