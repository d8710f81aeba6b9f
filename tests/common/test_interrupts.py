"""Ctrl-C: calls that may take long run on a helper thread, while the main thread handles signals."""

import _thread
import gc
import math
import signal
import threading
import time
import weakref

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import threads


@pytest.fixture
def interrupts():
    """SIGINT raises KeyboardInterrupt; test runners ignore it in workers."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_wait_ends_at_an_interrupt(interrupts):
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    def task():
        begun.set()
        try:
            released.wait(60.0)
            for _ in range(10**9):  # until the exception arrives that the main thread has sent
                pass
        finally:
            ended.set()

    def interrupt():
        begun.wait(60.0)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        threads.patiently(task)
    assert begun.is_set()
    assert not ended.is_set()
    released.set()
    assert ended.wait(60.0)
    # The next call uses a new helper thread.
    assert threads.patiently(lambda: 5) == 5


def test_an_interrupt_stops_a_task(interrupts):
    begun, stopped = threading.Event(), threading.Event()

    def task():
        begun.set()
        stopped.wait(60.0)

    def interrupt():
        begun.wait(60.0)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        threads.patiently(task, stopped.set)
    assert begun.is_set()
    assert stopped.is_set()
    assert threads.patiently(lambda: 5) == 5


def test_an_interrupt_ends_a_reduction(interrupts):
    means = np.random.default_rng(0).normal(size=(200, 8))
    p = fv.GaussianMixture(np.full(200, 0.005), means, np.array([0.3 * np.eye(8)] * 200))
    fv.reduce_mixture(p, 100, max_iterations=1)  # compiles, and starts the thread
    thread = threads._helper._thread

    def interrupt():
        time.sleep(0.3)
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        fv.reduce_mixture(p, 100, tol=1e-300, max_iterations=10**7)
    thread.join(20.0)
    assert not thread.is_alive()


def test_one_worker_is_the_helper_thread():
    found = []
    threads.run_interruptibly(lambda i: found.append((i, threading.current_thread())), 3, 1, lambda: None)
    helper = threads.patiently(threading.current_thread)
    assert found == [(i, helper) for i in range(3)]


def test_a_task_has_the_settings_of_its_caller():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with np.errstate(divide="raise"):
            ident, count, state = threads.patiently(
                lambda: (threading.get_ident(), numba.get_num_threads(), np.geterr()["divide"])
            )
    finally:
        numba.set_num_threads(before)
    assert ident != threading.get_ident()
    assert (count, state) == (1, "raise")
    # On a thread other than the main one, and in a task of a task, no helper thread is used.
    outer, inner = threads.patiently(lambda: (threading.get_ident(), threads.patiently(threading.get_ident)))
    assert outer == inner == ident


def test_exceptions_arrive_and_nothing_is_kept():
    class Thing:
        pass

    thing = Thing()
    there = weakref.ref(thing)
    assert threads.patiently(lambda thing=thing: thing) is thing
    del thing
    gc.collect()
    assert there() is None
    with pytest.raises(ZeroDivisionError):
        threads.patiently(lambda: 1 / 0)


def test_no_piece_begins_after_an_exception():
    done = []

    def task(i):
        if i == 3:
            raise KeyboardInterrupt
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        threads.run(task, 1_000_000)
    assert len(done) < 999_000


class PatientError(Exception):
    """Raised in place of a patient call."""


@numba.njit
def log_joint(z, x):
    return -0.5 * (z @ z) - 0.5 * (x[0] - z[0]) ** 2


@numba.njit
def with_theta(z, theta, x):
    return -0.5 * (z @ z) - 0.5 * (x[0] - z[0] - theta[0]) ** 2


@numba.njit
def looping(z, n):
    s = 0.0
    for i in range(n):
        s += math.sin(i * z[0])
    return -0.5 * (z @ z) - 1e-9 * s


SMALL, MANY = (np.ones(3),), (np.ones(20_000),)
MIXTURE = fv.GaussianMixture([0.5, 0.5], np.arange(6.0).reshape(2, 3), [np.eye(3), np.eye(3)])
LONG = {
    "fit": lambda: fv.fit(fv.Model(log_joint, 3, SMALL)),
    "fit of a long loop": lambda: fv.fit(fv.Model(looping, 1, (10_000,))),
    "log_density of many points": lambda: fv.Model(log_joint, 1, SMALL).log_density(np.zeros((1000, 1))),
    "psis_k": lambda: fv.fit(fv.Model(log_joint, 1, SMALL)).psis_k,
    "diagnose": lambda: fv.fit(fv.Model(log_joint, 1, SMALL)).diagnose(),
    "resample": lambda: fv.fit(fv.Model(log_joint, 1, SMALL)).sample(1000, resample=True),
    "fit of many data": lambda: fv.fit(fv.Model(log_joint, 1, MANY)),
    "fit_batch": lambda: fv.fit_batch(fv.Model(log_joint, 1, SMALL), [SMALL]),
    "elbo": lambda: fv.elbo(fv.Model(log_joint, 3, SMALL), fv.Gaussian(np.zeros(3), np.eye(3))),
    "elbo_grad": lambda: fv.elbo_grad(fv.Model(log_joint, 1, MANY), fv.Gaussian(0.0, 1.0)),
    "log_evidence": lambda: fv.log_evidence(fv.Model(log_joint, 2, SMALL)),
    "decompose": lambda: fv.decompose(fv.Model(log_joint, 1, SMALL), fv.Gaussian(0.0, 1.0)),
    "maximize_evidence": lambda: fv.maximize_evidence(fv.Model(with_theta, 1, MANY, theta=[0.0])),
    "kl_estimate": lambda: fv.kl_estimate(MIXTURE, fv.Gaussian(np.zeros(3), np.eye(3))),
    "kl": lambda: fv.kl(MIXTURE, fv.Gaussian(np.zeros(3), np.eye(3))),
    "entropy": MIXTURE.entropy,
    "entropy_estimate": lambda: fv.entropy_estimate(MIXTURE),
    "i_projection": lambda: fv.i_projection(MIXTURE),
    "logpdf": lambda: MIXTURE.logpdf(np.zeros((6_000_000, 3))),
}


@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
def test_calls_that_may_take_long_are_patient(call, monkeypatch):
    def patiently(task):
        raise PatientError

    monkeypatch.setattr(threads, "patiently", patiently)
    monkeypatch.setattr("fastvi.distributions.mixture.patiently", patiently)
    monkeypatch.setattr("fastvi.inference.model.patiently", patiently)
    with pytest.raises(PatientError):
        call()


def test_short_calls_stay_on_their_thread(monkeypatch):
    monkeypatch.setattr(threads, "patiently", None)
    model = fv.Model(log_joint, 1, SMALL)
    found = fv.fit(model)
    assert abs(model.log_density(found.q.mean) + 0.25) < 1e-9
    assert abs(fv.elbo(model, found.q).value - found.elbo.value) < 1e-9
    plane = fv.GaussianMixture([0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
    assert fv.kl(plane, fv.Gaussian(0.0, 1.0)) > 0.0
