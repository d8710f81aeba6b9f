"""Many short rows, which have a loop of their own, give the same as each row alone."""

import numpy as np
import pytest

import fastvi as fv
from fastvi.kernels.discrete.registry import ROWS
from fastvi.kernels.discrete.short_rows import FEW, LANES, SHORT
from helpers.divergence_rows import EVERY, evaluate


def tables(rng, rows, n):
    """Rows of all kinds: zeros, equal and proportional rows, tiny and large entries, one-hot."""
    p, q = rng.gamma(0.5, size=(2, rows, n))
    p[rng.random(p.shape) < 0.1] = 0.0
    q[::3] = p[::3] * rng.choice([1.0, 3.0, 1e-5], size=(len(q[::3]), 1))
    q[1::5] = p[1::5] * (1.0 + 1e-9 * rng.normal(size=q[1::5].shape))
    p[2::7] *= 1e200
    q[3::7] *= 1e-250
    p[4::11] = np.eye(n)[rng.integers(n, size=len(p[4::11]))]
    p[:, 0] += 1e-6
    q[:, -1] += 1e-6
    return p, q


@pytest.mark.parametrize("mass", ["normalize", "any", "unit"])
@pytest.mark.parametrize(
    ("name", "keywords"), [*((name, {}) for name in EVERY), ("renyi", {"alpha": np.inf})]
)
def test_many_rows_are_as_each(name, keywords, mass):
    if mass == "any" and not ROWS[name].measures:
        pytest.skip("of distributions")
    rng = np.random.default_rng(7)
    for n in (1, 2, 5, SHORT, SHORT + 1):
        p, q = tables(rng, 2 * LANES + 5, n)
        if mass == "unit":
            p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
        many = evaluate(name, p, q, axis=1, mass=mass, **keywords)
        each = [evaluate(name, *pair, mass=mass, **keywords) for pair in zip(p, q, strict=True)]
        np.testing.assert_allclose(many, each, rtol=2e-14, atol=0.0)


def test_the_row_that_is_refused_is_named():
    p = np.full((FEW + 3, 3), 1.0 / 3.0)
    q = p.copy()
    q[FEW + 1, 2] = -0.5
    with pytest.raises(ValueError, match=rf"q\[{FEW + 1}"):
        fv.kl(p, q, axis=1)
    q[FEW + 1, 2] = np.nan
    values = fv.kl(p, q, axis=1, nan_policy="propagate")
    assert np.isnan(values).tolist() == [i == FEW + 1 for i in range(FEW + 3)]


@pytest.mark.parametrize("mass", ["normalize", "unit"])
@pytest.mark.parametrize("n", [2, 5, SHORT])
def test_a_zero_with_a_sign_is_a_zero(n, mass):
    """Beside -0.0 the order inf of some rows was finite: the largest of ratios that are -inf."""
    p, q = np.random.default_rng(n).uniform(0.1, 1.0, size=(2, LANES + 3, n))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    q[:, 0], q[:, 1] = -0.0, q[:, 0] + q[:, 1]
    for alpha in (np.inf, 2.0, 1.0):
        assert (fv.renyi(p, q, alpha, axis=1, mass=mass) == np.inf).all()
        assert fv.renyi(q, p, alpha, axis=1, mass=mass) == pytest.approx(
            fv.renyi(np.abs(q), p, alpha, axis=1, mass=mass), rel=1e-15
        )
