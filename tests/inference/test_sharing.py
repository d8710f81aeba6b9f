"""Blocks of a dear log joint, shared out over threads: the same bits and faults, only where it is safe."""

import _thread
import math
import signal
import threading
import time

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import threads
from fastvi.inference import sharing
from fastvi.inference.model import target_of
from helpers.forms import compiled_only

pytestmark = compiled_only

X = np.random.default_rng(0).standard_normal((40, 3))
Y = np.random.default_rng(1).integers(0, 2, 40).astype(float)


@numba.njit
def logistic(z, x, y):
    r = -0.5 * (z * z).sum()
    for i in range(y.size):
        u = 0.0
        for j in range(z.size):
            u += x[i, j] * z[j]
        r += y[i] * u - np.logaddexp(0.0, u)
    return r


@numba.njit
def logistic_gradient(z, grad, x, y):
    r = 0.0
    for j in range(z.size):
        r -= 0.5 * z[j] * z[j]
        grad[j] = -z[j]
    for i in range(y.size):
        u = 0.0
        for j in range(z.size):
            u += x[i, j] * z[j]
        r += y[i] * u - np.logaddexp(0.0, u)
        for j in range(z.size):
            grad[j] += (y[i] - 1.0 / (1.0 + math.exp(-u))) * x[i, j]
    return r


@pytest.fixture
def shared(monkeypatch):
    """All models count as dear, and threads are used, at least two; the names of those that take pieces."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one processor: nothing to share out")
    names, run, second = set(), threads.run, threading.Event()

    def noted(task, pieces):
        several = pieces > 1 and threads.allowed() > 1

        def named(i):
            names.add(threading.current_thread().name)
            if len(names) > 1:
                second.set()
            elif several:  # on a busy machine one thread may be through before another begins
                second.wait(10.0)
            task(i)

        run(named, pieces)

    monkeypatch.setattr(sharing, "DEAR", 0.0)
    monkeypatch.setattr(threads, "run", noted)
    return names


@pytest.fixture
def alone():
    """A function that computes something on one thread."""

    def compute(function, *arguments, **keywords):
        fv.set_num_threads(1)
        try:
            return function(*arguments, **keywords)
        finally:
            fv.set_num_threads(None)

    return compute


def is_shared(model):
    value, slopes = target_of(model, gradient=True)[:2]
    changed = value != model._address, slopes != model._slopes_address
    assert changed[0] == changed[1] or not slopes
    return changed[0]


def bits(fit):
    parts = fit.q.mean, fit.q.cov, fit.trace, np.array([fit.elbo.value, fit.elbo.error])
    return *(part.tobytes() for part in parts), fit.evaluations, fit.status


@pytest.mark.parametrize("family", ["full", "diag"])
@pytest.mark.parametrize("gradient", [logistic_gradient, "forward", "differences"])
def test_fits_have_the_same_bits(family, gradient, shared, alone):
    model = fv.Model(logistic, 3, (X, Y), log_joint_grad=gradient)
    one = alone(fv.fit, model, family)
    assert not shared
    two = fv.fit(model, family)
    assert is_shared(model)
    assert len(shared) > 1
    assert bits(one) == bits(two)
    if gradient != "differences":
        cov = alone(one.linear_response).cov
        assert cov.tobytes() == two.linear_response().cov.tobytes()


def test_quadrature_has_the_same_bits(shared, alone):
    model = fv.Model(logistic, 2, (X[:, :2].copy(), Y), support="positive")
    q = fv.TransformedGaussian(fv.Gaussian([-1.0, -1.0], [[0.3, 0.1], [0.1, 0.5]]), "positive", 2)
    one, two = alone(fv.elbo, model, q), fv.elbo(model, q)
    assert (one.value, one.error, one.evaluations) == (two.value, two.error, two.evaluations)
    assert len(shared) > 1


@numba.njit
def raising(z, limit):
    if z[0] > limit:
        raise ValueError("too far")
    return -0.5 * (z * z).sum()


@pytest.mark.parametrize("count", [1, 2, 17, 64])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_blocks_fail_at_the_same_row(count, share, shared):
    model = fv.Model(raising, 3, (1.0,), log_joint_grad="differences")
    z = np.random.default_rng(count).standard_normal((count, 3))
    z[:, 0] = np.where(np.random.default_rng(1).random(count) < share, 2.0, 0.0)
    wanted, row = model._tabulate(z)
    address = target_of(model)[0]
    assert address != model._address
    values = np.empty(count)
    arguments = z.ctypes.data, count, 3, model._theta.ctypes.data, 0, model._table.ctypes.data
    assert sharing.VALUE(address)(*arguments, values.ctypes.data) == row
    known = row - 1 if row else count
    assert values[:known].tobytes() == wanted[:known].tobytes()
    assert row == (np.flatnonzero(z[:, 0] > 1.0)[:1].sum() + 1 if z[:, 0].any() else 0)


def test_rows_before_one_that_failed_are_evaluated(monkeypatch):
    """A thread may have taken row 1 and not begun it when another one fails at row 2."""
    done = []

    def function(z, *rest):
        done.append((z - 800) // 8)
        return done[-1] in (1, 2)

    monkeypatch.setattr(threads, "run", lambda task, pieces: [task(i) for i in (0, 2, 1, 3)])
    assert sharing._share_out(function)(800, 4, 1, 0, 0, 0, 0) == 2
    assert done == [0, 2, 1]


def test_faults_are_named_as_before(shared, alone):
    model = fv.Model(raising, 3, (-1.0,), log_joint_grad="differences")
    messages = []
    for call in (lambda: alone(fv.fit, model), lambda: fv.fit(model)):
        with pytest.raises(ValueError, match="too far") as caught:
            call()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    narrow = fv.Model(raising, 3, (5.0,), log_joint_grad="differences")
    assert bits(alone(fv.fit, narrow)) == bits(fv.fit(narrow))


@numba.njit
def scratch_entries(z, x, y, u):
    for i in range(y.size):
        u[i] = x[i, 0] * z[0]
    return -(u * u).sum()


@numba.njit
def scratch_put_back(z, x, y, u):
    u[0] = z[0]
    r = -u[0] * u[0]
    u[0] = 0.0
    return r


@numba.njit
def scratch_by_another_name(z, x, y, u):
    v = np.ascontiguousarray(u)  # numba takes it for a copy
    v[0] = z[0]
    return -(u * u).sum()


@numba.njit
def scratch_of_dot(z, x, y, u):
    np.dot(x, z, u)
    return -(u * u).sum()


@numba.njit(parallel=True)
def parallel(z, x, y, u):
    r = 0.0
    for i in numba.prange(y.size):
        r -= x[i, 0] * z[0] + x[i, 1] ** 2
    return r


@numba.njit
def nested_parallel(z, x, y, u):
    return parallel(z, x, y, u)


@numba.njit
def through_python(z, x, y, u):
    with numba.objmode(r="float64"):
        r = -float((z * z).sum())
    return r  # noqa: RET504


@numba.njit
def random(z, x, y, u):
    return -(z * z).sum() + np.random.random()  # noqa: NPY002


@numba.njit
def allocating(z, x, y, u):
    v = np.empty(y.size)
    for i in range(y.size):
        v[i] = x[i, 0] * z[0]
    return -(v * v).sum() + u[0]


@pytest.mark.parametrize(
    ("log_joint", "safe"),
    [
        (scratch_entries, False),
        (scratch_put_back, False),
        (scratch_by_another_name, False),
        (scratch_of_dot, False),
        (parallel, False),
        (nested_parallel, False),
        (through_python, False),
        (random, False),
        (allocating, True),
    ],
)
def test_only_what_threads_may_call_at_once_is_shared_out(log_joint, safe, shared):
    model = fv.Model(log_joint, 3, (X, Y, np.zeros(Y.size)), log_joint_grad="differences")
    assert is_shared(model) == safe


@numba.njit
def gradient_with_scratch(z, grad, x, y, u):
    u[0] = z[0]
    for j in range(z.size):
        grad[j] = -2.0 * z[j]
    grad[0] = -2.0 * u[0]
    u[0] = 0.0
    return -(z * z).sum()


def test_gradients_that_write_to_data_are_not_shared_out(shared):
    def log_joint(z, x, y, u):
        return -(z * z).sum()

    model = fv.Model(log_joint, 3, (X, Y, np.zeros(3)), log_joint_grad=gradient_with_scratch)
    assert not is_shared(model)


@numba.njit
def slow(z, steps):
    r = 0.0
    for _ in range(steps):
        r += math.sin(r + z[0])
    return -(z * z).sum() + 1e-9 * r


def test_what_is_dear_is_measured_once_for_data():
    model = fv.Model(slow, 3, (10,), log_joint_grad="differences")
    assert not is_shared(model)
    assert 0.0 < model._seconds < sharing.DEAR
    assert model._seconds == model._seconds
    other = model.with_data((10**6,))
    assert other._seconds > sharing.DEAR
    assert is_shared(other) == (numba.config.NUMBA_NUM_THREADS > 1)
    assert fv.Model(slow, 1, (10,))._seconds == 0.0


def test_foreign_functions_stay_in_the_thread_of_the_call(shared):
    callers = set()

    def value(z):
        callers.add(threading.current_thread())
        return -0.5 * (z * z).sum(axis=1)

    fv.fit(fv.from_block(lambda z: (value(z), -z), value, 3))
    assert callers == {threading.current_thread()}


@pytest.mark.parametrize("raised", [KeyboardInterrupt, MemoryError])
def test_exceptions_while_sharing_out_arrive(raised, shared, monkeypatch):
    model = fv.Model(logistic, 3, (X, Y))
    fv.fit(model)
    calls = []

    def run(task, pieces):
        calls.append(pieces)
        if len(calls) == 5:
            raise raised
        for i in range(pieces):
            task(i)

    monkeypatch.setattr(threads, "run", run)
    with pytest.raises(raised):
        fv.fit(model)
    assert len(calls) == 5
    assert not sharing.failures


def test_ctrl_c_ends_a_fit(shared):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    model = fv.Model(slow, 3, (10**6,), log_joint_grad="differences")  # a call takes 10 ms, a fit thousands
    try:
        sent = []

        def interrupt():
            time.sleep(0.3)
            sent.append(time.perf_counter())
            _thread.interrupt_main()

        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            fv.fit(model)
        assert time.perf_counter() - sent[0] < 1.0
    finally:
        signal.signal(signal.SIGINT, before)


def test_fits_in_many_threads_at_once(shared, alone):
    model = fv.Model(logistic, 3, (X, Y))
    wanted, found = bits(alone(fv.fit, model)), [None] * 4

    def work(k):
        found[k] = bits(fv.fit(model))

    team = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(4)]
    for member in team:
        member.start()
    for member in team:
        member.join(120.0)
    assert found == [wanted] * 4
