"""`rng=`: what may be given, and that it decides the draws."""

import numpy as np
import pytest

import fastvi as fv


def quadratic(z, x):
    return -0.5 * (x - z[0]) ** 2


DRAWS = {
    "Gaussian": lambda rng: fv.Gaussian([0, 1], np.eye(2)).sample(3, rng),
    "GaussianMixture": lambda rng: fv.GaussianMixture([0.4, 0.6], [-1, 2], [1, 1]).sample(3, rng),
    "StudentT": lambda rng: fv.StudentT([0, 1], np.eye(2), 3).sample(3, rng),
    "TransformedMixture": lambda rng: fv.TransformedMixture(
        fv.GaussianMixture([0.5, 0.5], [-3, 3], [1, 2]), "positive", 1
    ).sample(3, rng=rng),
    "Transformed": lambda rng: fv.TransformedGaussian(fv.Gaussian(0, 1), "positive", 1).sample(3, rng=rng),
    "Truncated": lambda rng: fv.TruncatedGaussian(0, 1, 0).sample(3, rng),
    "fit_mixture": lambda rng: (
        fv.fit_mixture(
            np.random.default_rng(0).normal(size=(60, 2)), 4, restarts=4, max_iterations=1, rng=rng
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
