"""What a log joint refers to: a value that is rebound counts in the next model, and not in the last one."""

import pickle
import types

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.inference import compilation

centre = 1.0
centres = np.array([1.0])
settings = types.ModuleType("settings")
settings.centre = 1.0


def plain(z):
    return -0.5 * (z[0] - centre) ** 2


@numba.njit
def jitted(z):
    return -0.5 * (z[0] - centre) ** 2


@numba.njit("float64(float64[::1])")
def signed(z):
    return -0.5 * (z[0] - centre) ** 2


@numba.njit
def of_an_array(z):
    return -0.5 * (z[0] - centres[0]) ** 2


@numba.njit
def of_a_module(z):
    return -0.5 * (z[0] - settings.centre) ** 2


@numba.njit
def countdown(n):
    if n <= 1:
        return centre
    return countdown(n - 1)


@numba.njit
def through_others(z):
    return -0.5 * (z[0] - countdown(3)) ** 2


def closure():
    centre = 1.0

    def inside(z):
        return -0.5 * (z[0] - centre) ** 2

    def rebind(value):
        nonlocal centre
        centre = value

    return inside, rebind


inside, rebind = closure()


def put(value):
    globals()["centre"] = settings.centre = centres[0] = value
    rebind(value)


@pytest.mark.parametrize(
    "function",
    [plain, jitted, signed, of_an_array, of_a_module, through_others, inside],
    ids=lambda f: getattr(f, "__name__", None),
)
def test_rebound_values_count_in_the_next_model(function):
    q = fv.Gaussian(5.0, 1.0)
    at_q = 0.9189385332046727  # the entropy less 1/2
    put(1.0)
    countdown(3), jitted(np.zeros(1))  # compiled with the old value
    before = fv.Model(function, 1)
    put(5.0)
    model = fv.Model(function, 1)
    for found, distance in ((before, 4.0), (model, 0.0), (pickle.loads(pickle.dumps(model)), 0.0)):
        assert abs(fv.elbo(found, q).value - (at_q - 0.5 * distance**2)) <= 1e-12
        assert found.log_density([5.0]) == -0.5 * distance**2
    count = compilation.compiled_count()
    assert fv.Model(function, 1).log_density([5.0]) == 0.0
    assert compilation.compiled_count() == count
