"""Maps between latent coordinates and a support: compiled and plain, and their gradients by differences."""

import numpy as np
import pytest

from fastvi.kernels.models import supports

KINDS = {
    "all but a simplex": ([0, 1, 2, 3], [[0, 0], [1.5, 0], [0, -0.5], [-1, 2]], 4),
    "a simplex": ([4, 4, 4], [[3, 0], [2, 0], [1, 0]], 4),
    "simplexes among others": (
        [1, 4, 4, 3, 4, 2],
        [[0, 0], [2, 0], [1, 0], [0, 1], [1, 0], [0, 3]],
        8,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_carried_to_latent_coordinates(name):
    kinds, bounds, dim = KINDS[name]
    kinds, bounds = np.array(kinds, np.int64), np.array(bounds, float)
    rng = np.random.default_rng(2)
    weights = rng.standard_normal(dim)

    def target(latent):
        """sum(w z + z**2 / 2) + log-Jacobian."""
        z, log_jacobian = np.empty((1, dim)), np.empty(1)
        supports.to_support(kinds, bounds, latent[None].copy(), 1, z, log_jacobian)
        return float((weights * z + 0.5 * z**2).sum() + log_jacobian[0]), z[0]

    for _ in range(10):
        latent = 1.5 * rng.standard_normal(kinds.size)
        _, z = target(latent)
        found, plain = np.empty(kinds.size), np.empty(kinds.size)
        supports.pull_back(kinds, bounds, latent, z, weights + z, found)
        supports.pull_back.py_func(kinds, bounds, latent, z, weights + z, plain)
        np.testing.assert_allclose(found, plain, rtol=1e-12)
        for i in range(kinds.size):
            step = 1e-5 * np.eye(kinds.size)[i]
            expected = (target(latent + step)[0] - target(latent - step)[0]) / 2e-5
            assert abs(found[i] - expected) <= 1e-7 * (1 + abs(expected))


def test_transforms_as_in_plain_python():
    kinds, bounds, dim = KINDS["simplexes among others"]
    kinds, bounds = np.array(kinds, np.int64), np.array(bounds, float)
    latent = 2.0 * np.random.default_rng(3).standard_normal((6, kinds.size))
    one, two = (np.empty((6, dim)), np.empty(6)), (np.empty((6, dim)), np.empty(6))
    supports.to_support(kinds, bounds, latent, 6, *one)
    supports.to_support.py_func(kinds, bounds, latent, 6, *two)
    np.testing.assert_allclose(one[0], two[0], rtol=1e-13)
    np.testing.assert_allclose(one[1], two[1], rtol=1e-12)
    back = np.empty(kinds.size)
    for n in range(6):
        assert supports.to_latent.py_func(kinds, bounds, one[0][n], back)
        np.testing.assert_allclose(back, latent[n], rtol=1e-9)
