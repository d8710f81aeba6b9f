"""Sparse matrices of SciPy: the same answers as those of the dense arrays, from their non-zeros."""

import math

import numpy as np
import pytest
from scipy import sparse

import fastvi as fv
from helpers.divergence_rows import EVERY, METRICS, OF_MEASURES, PAIRED, ROWS, arrays, evaluate, parameters
from helpers.messages import says

every = pytest.mark.parametrize("name", EVERY)
paired = pytest.mark.parametrize("name", PAIRED)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=0.0)


def tables(seed, kind):
    """Two tables with zeros, and rows that are empty of what the other has, near the other, or the same."""
    rng = np.random.default_rng(seed)
    p, q = (rng.gamma(1.0, size=(9, 40)) * (rng.random((9, 40)) < 0.3) for _ in "pq")
    p[:, 0] = q[:, 0] = 1.0
    q[1] = p[1]
    q[2] = p[2] * (1.0 + 1e-7 * rng.standard_normal(40))
    q[3] = 3.0 * p[3]
    q[4] = p[4] + (p[4] == 0.0) * 1e-9
    p[5] = np.arange(40) % 2
    q[5] = 1.0 - p[5]
    p[6] = 1.0
    q[7] = p[7] ** 4
    q[7, np.flatnonzero(p[7])[-1]] = 0.0  # the only entry of p that q has not got
    if kind == "counts":
        return np.ceil(p), np.ceil(q)
    if kind == "wide":
        return p * np.exp(rng.normal(0.0, 30.0, p.shape)), q
    return p, q


@every
@pytest.mark.parametrize("kind", ["plain", "counts", "wide"])
@pytest.mark.parametrize("mass", ["normalize", "any"])
def test_rows(name, kind, mass):
    if mass == "any" and name not in OF_MEASURES:
        mass = "normalize"
    p, q = tables(0, kind)
    expected = evaluate(name, p, q, mass=mass)
    for layout in (sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.csc_matrix):
        found = evaluate(name, layout(p), layout(q), mass=mass)
        assert type(found) is np.ndarray
        close(found, expected)
    close(evaluate(name, sparse.csr_array(p.T), sparse.csr_array(q.T), axis=0, mass=mass), expected)
    assert evaluate(name, sparse.csr_array(p), sparse.csr_array(q), mass=mass, keepdims=True).shape == (9, 1)


@paired
def test_rows_that_broadcast(name):
    p, q = tables(1, "plain")
    expected = evaluate(name, p, q[0], mass="normalize")
    for other in (sparse.csr_array(q[:1]), q[0], q[:1]):
        close(evaluate(name, sparse.csr_array(p), other, mass="normalize"), expected)
    close(
        evaluate(name, q[0], sparse.csr_array(p), mass="normalize"), evaluate(name, q[0], p, mass="normalize")
    )


@paired
@pytest.mark.parametrize("kind", ["plain", "counts", "wide"])
@pytest.mark.parametrize("mass", ["normalize", "any"])
def test_pairwise(name, kind, mass):
    if mass == "any" and name not in OF_MEASURES:
        mass = "normalize"
    p, q = tables(2, kind)
    keywords = {**parameters(name), "mass": mass}
    expected = np.array([[evaluate(name, x, y, mass=mass) for y in q] for x in p])
    close(fv.pairwise(sparse.csr_array(p), sparse.csr_array(q), name, **keywords), expected)
    close(fv.pairwise(sparse.csr_array(p), q, name, **keywords), expected)
    same = np.array([[evaluate(name, x, y, mass=mass) for y in p] for x in p])
    out = np.empty((9, 9))
    assert fv.pairwise(sparse.csr_array(p), metric=name, out=out, **keywords) is out
    close(out, same)


@pytest.mark.parametrize("name", [name for name in METRICS if ROWS[name].base])
def test_base_of_pairwise(name):
    p, q = tables(3, "plain")
    keywords = {**parameters(name), "mass": "normalize", "base": 2}
    expected = np.array([[evaluate(name, x, y, mass="normalize", base=2) for y in q] for x in p])
    close(fv.pairwise(sparse.csr_array(p), sparse.csr_array(q), name, **keywords), expected)


def test_many_rows_come_in_batches():
    rng = np.random.default_rng(4)
    p = rng.poisson(0.3, (3000, 200)) + (np.arange(200) == 7)
    q = rng.poisson(0.3, (3000, 200)) + (np.arange(200) == 7)
    close(fv.js(sparse.csr_array(p), sparse.csr_array(q), mass="normalize"), fv.js(p, q, mass="normalize"))
    close(
        fv.pairwise(sparse.csr_array(p[:300]), sparse.csr_array(q[:150]), "hellinger", mass="normalize"),
        fv.pairwise(p[:300], q[:150], "hellinger", mass="normalize"),
    )


def test_entries_that_are_stored_oddly():
    """Zeros that are stored, columns out of order, and entries in two parts."""
    odd = sparse.csr_array(
        (np.array([0.5, 0.0, 0.25, 0.25]), np.array([2, 1, 0, 0]), np.array([0, 4])), (1, 3)
    )
    dense = np.array([[0.5, 0.0, 0.5]])
    for name in EVERY:
        expected = evaluate(name, dense, [0.25, 0.25, 0.5])
        close(evaluate(name, odd, [0.25, 0.25, 0.5]), expected)
        if name in PAIRED:
            found = fv.pairwise(odd, np.array([[0.25, 0.25, 0.5]]), name, **parameters(name))
            close(found[0], expected)
    assert not odd.has_canonical_format
    assert odd.nnz == 4


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_types(dtype):
    p, q = (x.astype(dtype) for x in tables(5, "counts"))
    found = fv.js(sparse.csr_array(p), sparse.csr_array(q), mass="normalize")
    np.testing.assert_allclose(found, fv.js(p, q, mass="normalize"), rtol=1e-6, atol=0.0)
    pairs = fv.pairwise(sparse.csr_array(p), sparse.csr_array(q), "js", mass="normalize")
    np.testing.assert_allclose(pairs, fv.pairwise(p, q, "js", mass="normalize"), rtol=1e-6, atol=0.0)


def test_nan_policy():
    p, q = tables(6, "plain")
    p[3, 0] = math.nan
    for policy in ("propagate", "omit"):
        keywords = {"mass": "normalize", "nan_policy": policy}
        close(fv.js(sparse.csr_array(p), sparse.csr_array(q), **keywords), fv.js(p, q, **keywords))


def test_errors_name_the_entry_of_the_matrix():
    p, q = tables(7, "plain")
    bad = q.copy()
    bad[4, 17] = -0.5
    with says(ValueError, "q[4, 17] is -0.5"):
        fv.kl(sparse.csr_array(p), sparse.csr_array(bad), mass="normalize")
    with says(ValueError, "Q[4, 17] is -0.5"):
        fv.pairwise(sparse.csr_array(p), sparse.csr_array(bad), mass="normalize")
    with says(ValueError, "P[4, 17] is -0.5"):
        fv.pairwise(sparse.csr_array(bad), metric="renyi", alpha=2, mass="normalize")
    with says(ValueError, "p sums to", "in row (0,)"):
        fv.entropy(sparse.csr_array(p))
    bad[4] = 0.0
    with says(ValueError, "q sums to 0 in row (4,)", "normalised"):
        fv.js(sparse.csr_array(p), sparse.csr_array(bad), mass="normalize")
    with says(ValueError, "Q sums to 0 in row (4,)", "normalised"):
        fv.pairwise(sparse.csr_array(p), sparse.csr_array(bad), "js", mass="normalize")
    with says(ValueError, "log=True"):
        fv.kl(sparse.csr_array(p), sparse.csr_array(q), log=True)
    with says(ValueError, "distributions of one length", "40", "39"):
        fv.kl(sparse.csr_array(p), sparse.csr_array(q[:, 1:]))
    with says(ValueError, "9 and 8 distributions"):
        fv.kl(sparse.csr_array(p), sparse.csr_array(q[1:]))
    with says(ValueError, "must be one"):
        fv.entropy(sparse.csr_array(p), axis=None)
    with says(TypeError, "p is a csr_array", "p.toarray()"):
        fv.kl_grad(sparse.csr_array(p), q)


def test_rows_without_entries_are_measures():
    p, q = tables(8, "plain")
    p[2] = q[2] = q[5] = 0.0
    for name in ("kl", "js", "hellinger", "entropy"):
        given = (sparse.csr_array(p), sparse.csr_array(q))
        expected = evaluate(name, p, q, mass="any")
        close(getattr(fv, name)(*arrays(name, *given), mass="any"), expected)
    expected = np.array([[fv.js(x, y, mass="any") for y in q] for x in p])
    close(fv.pairwise(*given, "js", mass="any"), expected)
    assert fv.js(sparse.csr_array((0, 5)), sparse.csr_array((0, 5))).shape == (0,)
    assert fv.pairwise(sparse.csr_array((0, 5)), sparse.csr_array(np.eye(5))).shape == (0, 5)
