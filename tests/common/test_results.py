"""What every public value promises: it cannot be changed, and copies and pickles are the same value.

The classes are found, not listed: a new one fails here until `EXAMPLES` says how to make one.
"""

import copy
import importlib
import inspect
import math
import multiprocessing
import pickle
import pkgutil
from functools import cache

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common.immutable import Immutable

#: Programs, and what works inside of compiled code.
NOT_VALUES = (
    "fastvi.cli",
    "fastvi.compiled",
    "fastvi.examples",
    "fastvi.kernels",
    "fastvi.page",
    "fastvi.tour",
)


def log_joint(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)


def gradient(z, grad, x):
    grad[0] = -1.0 + x - z[0]
    return log_joint_of_gradient(z[0], x)


@numba.njit
def log_joint_of_gradient(z, x):
    return -z - 0.5 * (x - z) ** 2 - 0.5 * math.log(2 * math.pi)


def with_theta(z, theta, x):
    return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * (x - z[0]) ** 2


@cache
def model():
    return fv.Model(log_joint, 1, (5.0,), log_joint_grad=gradient)


@cache
def named_model():
    return fv.Model(lambda p: -0.5 * p.a**2 - 0.5 * p.b[0] ** 2, {"a": "real", "b": (1,)})


@cache
def mixture_fit():
    return fv.fit_mixture([0, 1, 2, 3, 10, 11, 12, 13], 2, restarts=2)


POSITIVE = fv.TransformedGaussian(fv.Gaussian(0.0, 0.25), ["positive"], 1)
MIXTURE = fv.GaussianMixture([0.4, 0.6], [-1, 2], [1, 0.5])

#: How to make one of each class, or some.
EXAMPLES = {
    "CFunction": lambda: [fv.cfuncs.kl_element],
    "Bounds": lambda: [fv.kl_bounds(MIXTURE, fv.Gaussian(0, 1))],
    "Decomposition": lambda: [fv.decompose(model(), fv.Gaussian(3.0, 1.0))],
    "Estimate": lambda: [fv.kl_estimate(fv.Gaussian(0, 1), fv.Gaussian(1, 1))],
    "Fit": lambda: [
        fv.fit(model()),
        fv.fit(model(), starts=[[0.0], [1.0]]),
        fv.fit(fv.Model(log_joint, 1, (2.0,), "positive"), "truncated"),
    ],
    "FitBatch": lambda: [fv.fit_batch(model(), (np.array([1.0, np.nan, 3.0]),))],
    "Gaussian": lambda: [fv.Gaussian([0, 1], [[2, 0.5], [0.5, 1]])],
    "GaussianMixture": lambda: [MIXTURE],
    "Gradient": lambda: [fv.elbo_grad(model(), fv.Gaussian(3.0, 1.0))],
    "GradientCheck": lambda: [fv.check_gradient(model())],
    "Grid2D": lambda: [fv.Grid2D([0, 1, 2], [0, 1, 3], np.arange(9.0).reshape(3, 3))],
    "LabelDecomposition": lambda: [mixture_fit().decompose(np.full((8, 2), 0.5))],
    "Diagnosis": lambda: [fv.fit(model()).diagnose()],
    "LinearResponse": lambda: [fv.fit(model()).linear_response()],
    "MixtureFit": lambda: [mixture_fit()],
    "Model": lambda: [model(), fv.Model(with_theta, 1, (3.0,), theta=[0.0]), named_model()],
    "Moments": lambda: [fv.fit(named_model())[name] for name in "ab"],
    "Projection": lambda: [
        fv.m_projection(MIXTURE),
        fv.i_projection(np.array([[0.4, 0.1], [0.1, 0.4]]), "product"),
        fv.i_projection(fv.GaussianMixture([0.5, 0.3, 0.2], [-9, 0, 9], [1, 1, 1]), ("mixture", 2)),
    ],
    "Propagated": lambda: [fv.fit(model()).linear_response().of(lambda z: z)],
    "Reduction": lambda: [fv.reduce_mixture(MIXTURE, 1), fv.reduce_mixture(MIXTURE, 2)],
    "StudentT": lambda: [fv.StudentT([0, 1], [[2, 0.5], [0.5, 1]], 3.5)],
    "VariationalMixtureFit": lambda: [fv.fit_mixture([0, 1, 2, 10, 11, 12], 2, variational=True)],
    "ThetaFit": lambda: [fv.maximize_evidence(fv.Model(with_theta, 1, (3.0,), theta=[0.0]))],
    "TransformedGaussian": lambda: [POSITIVE],
    "TransformedMixture": lambda: [
        fv.TransformedMixture(fv.GaussianMixture([0.5, 0.5], [-3, 3], [1, 2]), "positive", 1)
    ],
    "TruncatedGaussian": lambda: [fv.TruncatedGaussian(0.0, 1.0, 0.0)],
}


#: Base classes, and tuples that the modules hand to each other.
INTERNAL = (
    "Ascent",
    "Axes",
    "Climb",
    "ClosedForm",
    "Density",
    "Draws",
    "DrawsExpectation",
    "Exponentials",
    "Factor",
    "FarRadii",
    "ForeignModel",
    "Frame",
    "FramePrior",
    "Functions",
    "Gaussians",
    "Immutable",
    "Laplace",
    "LatentFit",
    "Look",
    "Layout",
    "Logarithms",
    "LowRank",
    "Mode",
    "Names",
    "Pairing",
    "Part",
    "Parts",
    "Patterns",
    "Place",
    "Prior",
    "Quadratic",
    "Record",
    "Rival",
    "Rows",
    "Scores",
    "SgdOptions",
    "Shape",
    "Start",
    "Tables",
    "Tails",
)


def classes():
    """Public classes of values by name, from all modules."""
    found = {}
    for module in pkgutil.walk_packages(fv.__path__, "fastvi."):
        if module.name.startswith(NOT_VALUES):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            is_value = issubclass(kind, Immutable | tuple) or hasattr(kind, "__dataclass_fields__")
            own = kind.__module__.startswith("fastvi.") and not kind.__module__.startswith(NOT_VALUES)
            if is_value and own and not name.startswith("_") and name not in INTERNAL:
                found[name] = kind
    return found


@cache
def examples(name):
    return EXAMPLES[name]()


def attributes(value):
    """Public attributes and what they are, methods aside."""
    names = [name for name in dir(value) if not name.startswith("_")]
    found = {name: getattr(value, name) for name in names}
    return {name: part for name, part in found.items() if not callable(part)}


def same(a, b):
    if isinstance(a, Immutable) or hasattr(a, "__dataclass_fields__") or hasattr(a, "_fields"):
        if a is b:
            return True
        ours, theirs = attributes(a), attributes(b)
        parts = [same(ours[k], theirs[k]) for k in ours if k != "optima"]
        return type(a) is type(b) and repr(a) == repr(b) and ours.keys() == theirs.keys() and all(parts)
    if isinstance(a, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)
    return a == b or (a != a and b != b)


def arrays(value, path, seen):
    """Every array that can be reached through public attributes, with its path."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, tuple | list):
        for k, part in enumerate(value):
            yield from arrays(part, f"{path}[{k}]", seen)
    elif type(value).__module__.startswith("fastvi."):
        for name, part in attributes(value).items():
            # A model's data are the caller's own arrays.
            if not (isinstance(value, fv.Model) and name == "data"):
                yield from arrays(part, f"{path}.{name}", seen)


WAYS = {f"pickle {k}": lambda x, k=k: pickle.loads(pickle.dumps(x, k)) for k in range(6)} | {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def test_every_class_has_an_example():
    assert sorted(classes()) == sorted(EXAMPLES)
    public = {name for name in fv.__all__ if inspect.isclass(getattr(fv, name))}
    assert public <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_can_be_changed(name):
    for value in examples(name):
        assert type(value) is classes()[name]
        for attribute in (*attributes(value), "another"):
            with pytest.raises(AttributeError):
                setattr(value, attribute, None)
            with pytest.raises(AttributeError):
                delattr(value, attribute)
        for path, array in arrays(value, name, {}):
            assert not array.flags.writeable, path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EXAMPLES)
def test_copies_are_the_same(name, way):
    for value in examples(name):
        other = WAYS[way](value)
        assert same(value, other)
        for path, array in arrays(other, name, {}):
            assert not array.flags.writeable, path


def there(values):
    """Runs in the other process: the texts of the values, and the values."""
    return [repr(value) for value in values], values


def test_values_travel_between_processes():
    values = [value for name in EXAMPLES for value in examples(name)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        texts, back = pool.apply_async(there, (values,)).get(timeout=300)
    assert texts == list(map(repr, values))
    assert all(map(same, values, back))


def test_a_copied_fit_goes_on():
    fit = examples("Fit")[0]
    for way in WAYS.values():
        other = way(fit)
        assert np.array_equal(other.sample(3, 0), fit.sample(3, 0))
        assert other.psis_k == fit.psis_k
        assert fv.elbo(other.model, other.q).value == fv.elbo(fit.model, fit.q).value
    batch = examples("FitBatch")[0]
    other = pickle.loads(pickle.dumps(batch))
    assert other.q(2) == batch.q(2)
    assert other.status(1) == batch.status(1)
    assert other.q(0) == batch.q(0)


def test_the_best_of_some_starts_is_a_new_fit():
    fit = fv.fit(model(), starts=[[0.0], [1.0]])
    assert len(fit.starts) == 2
    assert fit._replace(starts=()).starts == ()
    assert len(fit.starts) == 2


def test_lambdas_and_closures_can_be_pickled():
    shift = 2.0
    for function in (lambda z: -0.5 * z[0] ** 2, lambda z: -0.5 * (z[0] - shift) ** 2):
        found = pickle.loads(pickle.dumps(fv.Model(function, 1)))
        assert found.log_density([1.0]) == -0.5


def test_a_gradient_cannot_change_the_model():
    @numba.njit
    def density(z, theta, x):
        return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * x[0] ** 2

    @numba.njit("float64(float64[::1], float64[::1], float64[::1], float64[::1])")
    def writes(z, grad, theta, x):
        grad[0] = theta[0] - z[0]
        value = -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * x[0] ** 2
        theta[0] = x[0] = 7.0
        return value

    data = np.array([1.0])
    changing = fv.Model(density, 1, (data,), log_joint_grad=writes, theta=[3.0])
    fv.check_gradient(changing, [[0.5]])
    assert changing.theta.tolist() == [3.0]
    assert data.tolist() == [1.0]


def test_a_support_is_a_copy():
    declared = ["positive", ("upper", 1.0)]
    value = fv.Model(lambda z: -z[0] + z[1], 2, support=declared)
    declared[0] = "real"
    value.support[0] = "real"
    assert value.support == ["positive", ("upper", 1.0)]
