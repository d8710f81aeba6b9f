"""Supports: there and back, their Jacobians, and points outside."""

import re

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.distributions import support as support_
from helpers.messages import says


@numba.njit
def squares(z):
    return -0.5 * (z * z).sum()


SUPPORTS = [
    ("real", 2, 2),
    ("positive", 1, 1),
    (("lower", -2.5), 2, 2),
    (("upper", 3.0), 1, 1),
    (("interval", -1.0, 4.0), 1, 1),
    ("simplex", 2, 1),
    ("simplex", 5, 4),
    (["real", "simplex", "simplex", "simplex", "positive"], 5, 4),
    (["simplex", "simplex", ("upper", 0.0), "simplex", "simplex", "simplex"], 6, 4),
]


@pytest.mark.parametrize(("support", "dim", "latent"), SUPPORTS)
def test_there_and_back(support, dim, latent):
    place = support_.Support(support, dim)
    assert (place.dim, place.latent_dim) == (dim, latent)
    assert place.is_real == (support == "real")
    x = 3.0 * np.random.default_rng(0).standard_normal((50, latent))
    z, log_jacobian = place.to_model(x)
    np.testing.assert_allclose(place.to_latent("z", z), x, rtol=1e-9, atol=1e-9)
    entries = [support] * dim if isinstance(support, str | tuple) else support
    free = [i for i in range(dim) if entries[i] != "simplex" or (i + 1 < dim and entries[i + 1] == "simplex")]
    for i in range(0, 50, 10):
        steps = 1e-5 * np.eye(latent)
        jacobian = (place.to_model(x[i] + steps)[0] - place.to_model(x[i] - steps)[0])[:, free] / 2e-5
        assert abs(np.linalg.slogdet(jacobian)[1] - log_jacobian[i]) <= 1e-6
    for i in range(dim):
        if entries[i] == "simplex":
            assert ((z[:, i] > 0) & (z[:, i] < 1)).all()
    if "simplex" in entries:
        groups = "".join("s" if e == "simplex" else "." for e in entries)
        for found in re.finditer("s+", groups):
            np.testing.assert_allclose(z[:, found.start() : found.end()].sum(axis=1), 1.0, rtol=1e-14)
    # Latent zeros are the centre: equal shares of a simplex, 1 for a positive number.
    centre = place.to_model(np.zeros((1, latent)))[0][0]
    if support == "simplex":
        np.testing.assert_allclose(centre, 1 / dim, rtol=1e-14)
    if support == "positive":
        assert centre[0] == 1.0


def test_points_outside_of_a_support():
    for support, dim, z in (
        ("positive", 1, [0.0]),
        ("positive", 1, [-1.0]),
        (("lower", 1.0), 1, [1.0]),
        (("upper", 1.0), 1, [1.0]),
        (("interval", 0.0, 1.0), 1, [1.0]),
        ("simplex", 2, [0.5, 0.6]),
        ("simplex", 3, [0.5, 0.5, 0.0]),
        ("simplex", 3, [0.7, 0.5, -0.2]),
    ):
        with says(ValueError, "start is [", "it lies outside of the model's support"):
            fv.fit(fv.Model(squares, dim, support=support), start=z)
    with says(ValueError, "z[1] is [-1.0]"):
        support_.Support("positive", 1).to_latent("z", np.array([[1.0], [-1.0]]))
