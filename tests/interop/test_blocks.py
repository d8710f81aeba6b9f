"""Models of functions of blocks of points: equal to the same log joint as a jitted function."""

import copy
import ctypes
import math
import pickle
import threading

import numba
import numpy as np
import pytest

import fastvi as fv

I64 = numba.types.int64
P, W = numba.types.CPointer(numba.types.float64), numba.types.CPointer(I64)
CENTRE = np.array([1.0, -2.0, 0.5])


@numba.njit
def log_joint(z, x):
    total = 0.0
    for i in range(z.size):
        total -= math.cosh(z[i] - x[i])
    return total


def gradient(z, grad, x):
    for i in range(z.size):
        grad[i] = -math.sinh(z[i] - x[i])
    return log_joint(z, x)


@numba.cfunc(I64(P, I64, I64, P, I64, W, P))
def c_value(z, count, dim, theta, size, table, out):
    for i in range(count):
        out[i] = 0.0
        for j in range(dim):
            out[i] -= math.cosh(z[i * dim + j] - 0.5 * table[j])
    return 0


@numba.cfunc(I64(P, I64, I64, P, I64, W, P, P))
def c_slopes(z, count, dim, theta, size, table, out, gradients):
    for i in range(count):
        out[i] = 0.0
        for j in range(dim):
            out[i] -= math.cosh(z[i * dim + j] - 0.5 * table[j])
            gradients[i * dim + j] = -math.sinh(z[i * dim + j] - 0.5 * table[j])
    return 0


@np.errstate(over="ignore")
def value(z):
    return -np.cosh(z - CENTRE[: z.shape[1]]).sum(axis=1)


@np.errstate(over="ignore")
def value_and_grad(z):
    return value(z), -np.sinh(z - CENTRE[: z.shape[1]])


def of_address(dim, slopes=True):
    table = (2 * CENTRE[:dim]).astype(int).tolist()
    return fv.from_address(c_value.address, c_slopes.address if slopes else None, dim, table)


def of_block(dim):
    return fv.from_block(value_and_grad, value, dim)


def native(dim, slopes=True):
    given = gradient if slopes else "differences"
    return fv.Model(log_joint, dim, (CENTRE[:dim],), log_joint_grad=given)


@pytest.mark.parametrize("make", [of_address, of_block])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_everything_equals_the_jitted_model(make, dim, monkeypatch):
    # The fits of blocks take other draws, in fewer calls: so do those that they are compared with.
    monkeypatch.setattr(fv.Model, "_calls_are_expensive", make is of_block)
    foreign, same = make(dim), native(dim)
    fit, other = fv.fit(foreign), fv.fit(same)
    assert fit.converged
    assert fit.evaluations == other.evaluations
    assert fit.elbo.value == pytest.approx(other.elbo.value, rel=1e-13)
    assert np.allclose(fit.q.mean, other.q.mean, rtol=0, atol=1e-11)
    assert fv.elbo(foreign, other.q).value == pytest.approx(fv.elbo(same, other.q).value, rel=1e-13)
    assert fit.psis_k == pytest.approx(other.psis_k, abs=1e-6)
    assert fit.diagnose().verdict == other.diagnose().verdict
    z = np.linspace(-1, 1, 4 * dim).reshape(2, 2, dim)
    assert np.allclose(foreign.log_density(z), same.log_density(z), rtol=1e-14, atol=0)
    assert fv.check_gradient(foreign)
    assert fit.sample(5, 0).shape == (5, dim)
    if dim <= 2:
        assert fv.log_evidence(foreign).value == pytest.approx(fv.log_evidence(same).value, rel=1e-12)


def test_a_model_without_slopes_takes_differences():
    foreign = of_address(3, slopes=False)
    assert fv.fit(foreign).elbo.value == pytest.approx(fv.fit(native(3, False)).elbo.value, rel=1e-12)
    with pytest.raises(ValueError, match="no gradient to check"):
        fv.check_gradient(foreign)
    one = fv.from_block(value_and_grad, None, 3)
    assert fv.fit(one).elbo.value == pytest.approx(fv.fit(of_block(3)).elbo.value, rel=1e-13)


def test_names_have_their_supports(monkeypatch):
    def of_scale(z):
        return -z[:, 0] - 0.5 * z[:, 1] ** 2 - 0.5 * z[:, 2] ** 2

    fit = fv.fit(fv.from_block(None, of_scale, {"tau": "positive", "x": (2,)}))

    def named(p):
        return -p.tau - 0.5 * p.x[0] ** 2 - 0.5 * p.x[1] ** 2

    model = fv.Model(named, {"tau": "positive", "x": (2,)}, log_joint_grad="differences")
    monkeypatch.setattr(fv.Model, "_calls_are_expensive", True)  # by the same draws
    other = fv.fit(model)
    assert fit.elbo.value == pytest.approx(other.elbo.value, rel=1e-12)
    assert fit["tau"].mean == pytest.approx(other["tau"].mean, rel=1e-9)
    assert fit.sample(3, 0, named=True)["x"].shape == (3, 2)


class OddError(BaseException):
    pass


@pytest.mark.parametrize("kind", [OddError, KeyboardInterrupt, ZeroDivisionError, ValueError])
@pytest.mark.parametrize("calls", [0, 1, 4, 9])
@pytest.mark.parametrize("dim", [1, 3])
def test_an_exception_is_raised_as_it_is(kind, calls, dim):
    raised = kind("no connection")
    left = [calls]

    def checked():
        left[0] -= 1
        if left[0] < 0:
            raise raised

    def bad_value(z):
        checked()
        return value(z)

    def bad_slopes(z):
        checked()
        return value_and_grad(z)

    model = fv.from_block(bad_slopes, bad_value, dim)
    with pytest.raises(kind) as caught:
        fv.fit(model)
    assert caught.value is raised
    left[0] = 10**9  # nothing of it stays
    assert fv.fit(model).converged
    left[0] = 0
    with pytest.raises(kind):
        model.log_density(np.zeros(dim))
    left[0] = 0
    with pytest.raises(kind):
        fv.elbo(model, fv.Gaussian(np.zeros(dim), np.eye(dim)))


def test_an_exception_in_a_diagnosis_is_raised():
    broken = []

    def sometimes(z):
        if broken:
            raise ConnectionError("gone")
        return value(z)

    fit = fv.fit(fv.from_block(None, sometimes, 3))
    broken.append(1)
    with pytest.raises(ConnectionError, match="gone"):
        fit.psis_k  # noqa: B018
    with pytest.raises(ConnectionError, match="gone"):
        fit.diagnose()
    with pytest.raises(ConnectionError, match="gone"):
        fit.sample(10, 0, resample=True)
    broken.clear()
    assert fit.psis_k < 0.7


def test_exceptions_stay_in_their_thread():
    model_of = {}

    def value_of_thread(z):
        if threading.get_ident() != model_of["good"]:
            raise ConnectionError("gone")
        return value(z)

    model, caught = fv.from_block(None, value_of_thread, 3), []
    model_of["good"] = threading.get_ident()

    def bad():
        try:
            fv.fit(model)
        except ConnectionError as error:
            caught.append(error)

    thread = threading.Thread(target=bad)
    thread.start()
    thread.join()
    assert len(caught) == 1
    assert fv.fit(model).converged


def test_a_failing_c_function_names_the_point():
    @numba.cfunc(I64(P, I64, I64, P, I64, W, P))
    def failing(z, count, dim, theta, size, table, out):
        return count

    model = fv.from_address(failing.address, None, 1, keep=failing)
    with pytest.raises(ValueError, match="from_address reports an error at z = "):
        fv.fit(model)
    with pytest.raises(RuntimeError, match=r"reports an error at z = \[2"):
        model.log_density([[1.0], [2.0]])


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda z: value(z)[:-1], ValueError, r"the values of a block of \d+ points must have shape"),
        (lambda z: 1j * value(z), TypeError, "must be real numbers, not of dtype complex"),
        (lambda z: "high", TypeError, "must be real numbers"),
        (lambda z: float(value(z)[0]), ValueError, r"not \(\)"),
    ],
)
def test_results_of_other_kinds_are_refused(function, error, words):
    with pytest.raises(error, match=words):
        fv.fit(fv.from_block(None, function, 3))


def test_gradients_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the gradients of a block of \d+ points must have shape"):
        fv.fit(fv.from_block(lambda z: (value(z), z.T), value, 3))
    with pytest.raises(TypeError, match="must return values and gradients, not ndarray"):
        fv.fit(fv.from_block(value, value, 3))


def test_points_are_the_functions_own():
    kept = []

    def greedy(z):
        found = value(z)
        kept.append(z)
        z[:] = math.nan
        return found

    assert fv.fit(fv.from_block(None, greedy, 3)).elbo.value == pytest.approx(
        fv.fit(fv.from_block(None, value, 3)).elbo.value, abs=0
    )
    assert all(np.isnan(z).all() for z in kept)


@pytest.mark.parametrize("make", [of_address, of_block])
def test_what_a_foreign_model_has_not_is_refused(make):
    model = make(1)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(model)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(fv.fit(model))
    assert copy.copy(model) is model
    assert copy.deepcopy(model) is model
    with pytest.raises(TypeError, match="has its data inside"):
        model.with_data(())
    with pytest.raises(TypeError, match="has no theta"):
        model.with_theta([1.0])
    with pytest.raises(ValueError, match="theta"):
        fv.maximize_evidence(model)
    with pytest.raises(TypeError, match="fit_batch varies the data"):
        fv.fit_batch(model, [(), ()])
    with pytest.raises(TypeError, match="names"):
        fv.fit(model).sample(3, named=True)
    with pytest.raises(Exception, match="called from Python only"):
        numba.njit(lambda m: m.dim)(model)


def test_bad_arguments_are_named():
    with pytest.raises(TypeError, match="value"):
        fv.from_address(1.5, None, 1)
    with pytest.raises(ValueError, match="value"):
        fv.from_address(0, None, 1)
    with pytest.raises(TypeError, match=r"table\[1\]"):
        fv.from_address(c_value.address, None, 1, [1, 0.5])
    with pytest.raises(ValueError, match=r"table\[0\] must be at most"):
        fv.from_address(c_value.address, None, 1, [2**63])
    with pytest.raises(TypeError, match="give value_and_grad"):
        fv.from_block(None, None, 1)
    with pytest.raises(TypeError, match="value must be a function"):
        fv.from_block(None, 3, 1)
    with pytest.raises(ValueError, match="dim"):
        fv.from_block(None, value, 0)


def test_the_header_declares_the_functions_of_from_address():
    text = fv.cfuncs.header()
    assert "(*fastvi_values)(" in text
    assert "(*fastvi_slopes)(" in text
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 7)
    assert callable(kind(c_value.address))
