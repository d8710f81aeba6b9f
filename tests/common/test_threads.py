"""Threads: the same bits on any number of them, errors, forks, the end of the interpreter."""

import os
import threading

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi.common import threads
from helpers.divergence_rows import PAIRED, parameters
from helpers.messages import says
from helpers.programs import finish, run_program, start_program

paired = pytest.mark.parametrize(
    ("name", "parameters"), [(name, tuple(parameters(name).values())) for name in PAIRED], ids=PAIRED
)


@pytest.fixture
def with_threads():
    """A function that computes something on a number of threads; the number is put back afterwards."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one processor: nothing to share out")
    before = numba.get_num_threads()

    def compute(count, function, *arguments, **keywords):
        numba.set_num_threads(count)
        try:
            return function(*arguments, **keywords)
        finally:
            numba.set_num_threads(before)

    return compute


@pytest.fixture
def helpers(monkeypatch):
    """The names of the threads that computed: a test of two threads must not pass on one."""
    names = set()
    run = threads.run

    def noted(task, pieces):
        def named(i):
            names.add(threading.current_thread().name)
            task(i)

        run(named, pieces)

    monkeypatch.setattr(threads, "run", noted)
    return names


def long_pair(dtype, noise=None):
    rng = np.random.default_rng(0)
    n = 1_000_003
    p = rng.gamma(1.0, size=n)
    q = rng.gamma(1.0, size=n) if noise is None else p * (1.0 + noise * rng.standard_normal(n))
    return (p / p.sum()).astype(dtype), (q / q.sum()).astype(dtype)


@paired
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("noise", [None, 1e-6])
def test_same_bits_on_one_thread_and_two(name, parameters, dtype, noise, with_threads):
    p, q = long_pair(dtype, noise)
    function = getattr(fv, name)
    one = with_threads(1, function, p, q, *parameters)
    two = with_threads(2, function, p, q, *parameters)
    strided = with_threads(2, function, np.repeat(p, 2)[::2], q, *parameters)
    assert one == two == strided
    assert one > 0.0


def test_long_arrays_are_shared_out(with_threads, helpers):
    p, q = long_pair(np.float64)
    for _ in range(50):
        with_threads(2, fv.kl, p, q)
        if len(helpers) > 1:
            break
    assert len(helpers) == 2
    helpers.clear()
    with_threads(
        1, fv.js, p.reshape(1, -1)[:, :-3].reshape(1000, -1), q[:-3].reshape(1000, -1), mass="normalize"
    )
    assert len(helpers) == 1


@paired
def test_same_bits_for_rows(name, parameters, with_threads):
    p, q = np.random.default_rng(1).dirichlet(np.ones(100), size=(2, 5000))
    function = getattr(fv, name)
    one = with_threads(1, function, p, q, *parameters)
    two = with_threads(2, function, p, q, *parameters)
    assert one.tobytes() == two.tobytes()
    assert one[4999] == function(p[4999], q[4999], *parameters)
    assert one[0] == function(p[0], q[0], *parameters)


def test_same_bits_for_gradients(with_threads):
    p, q = np.random.default_rng(2).gamma(1.0, size=(2, 5000, 100))
    one, two = (with_threads(k, fv.kl_grad, p, q) for k in (1, 2))
    for x, y in zip(one, two, strict=True):
        assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("metric", ["kl", "js", "hellinger", "bhattacharyya", "chi2"])
def test_same_bits_for_tables(metric, with_threads):
    P, Q = np.random.default_rng(3).dirichlet(np.ones(33), size=(2, 310))
    one, two = (with_threads(k, fv.pairwise, P, Q, metric) for k in (1, 2))
    assert one.tobytes() == two.tobytes()


def test_run_calls_every_piece_once(with_threads):
    for pieces in (0, 1, 2, 1000):
        counts = [0] * pieces

        def task(i, counts=counts):
            counts[i] += 1

        with_threads(2, threads.run, task, pieces)
        assert counts == [1] * pieces


@pytest.mark.parametrize("culprit", [0, 7, 99])
def test_run_passes_errors_on(culprit, with_threads):
    def task(i):
        if i == culprit:
            raise ZeroDivisionError(i)

    with pytest.raises(ZeroDivisionError):
        with_threads(2, threads.run, task, 100)


def test_run_within_run(with_threads):
    """A piece that shares out work itself must not wait for a thread that waits for it."""
    done = []
    with_threads(2, threads.run, lambda i: threads.run(lambda j: done.append((i, j)), 10), 10)
    assert sorted(done) == [(i, j) for i in range(10) for j in range(10)]


def test_a_piece_has_one_thread(with_threads):
    """Else pieces that share out their own work would take more threads than are allowed."""
    found = []

    def task(i):
        found.append(threads.allowed())

    with_threads(2, threads.run, task, 10)
    assert found == [1] * 10
    with pytest.raises(TypeError):
        with_threads(2, threads.run, None, 10)
    assert with_threads(2, threads.allowed) == 2


def test_four_python_threads_at_once():
    p, q = long_pair(np.float64)
    table = np.random.default_rng(4).dirichlet(np.ones(50), size=300)
    jobs = [lambda: fv.kl(p, q), lambda: fv.js(p, q), lambda: fv.pairwise(table).sum(), lambda: fv.chi2(p, q)]
    wanted = [job() for job in jobs]
    got, barrier = [None] * 4, threading.Barrier(4)

    def work(k):
        barrier.wait()
        got[k] = [jobs[(k + i) % 4]() for i in range(8)]

    workers = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert not any(worker.is_alive() for worker in workers)
    assert got == [[wanted[(k + i) % 4] for i in range(8)] for k in range(4)]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_fork_after_a_threaded_call():
    assert "pool True" in run_program("fork_after_threads") or numba.config.NUMBA_NUM_THREADS == 1


@needs_fork
def test_a_forked_child_has_threads_of_its_own():
    """It inherits the pool as an object without threads, and perhaps a lock that is never released."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one processor: nothing to share out")
    assert run_program("fork_with_lock_held") == "alive\n"


@needs_fork
def test_fork_while_another_thread_computes():
    """The fork may happen while the pool's lock is held, and must not wait for it."""
    assert "ten children" in run_program("fork_while_computing")


def test_set_num_threads():
    most, caller = numba.config.NUMBA_NUM_THREADS, threading.get_ident()
    try:
        fv.set_num_threads(1)
        found = set()
        threads.run(lambda i: found.add(threading.get_ident()), 50)
        assert (threads.allowed(), found) == (1, {caller})
        fv.set_num_threads(np.int64(most))
        assert threads.allowed() == min(most, numba.get_num_threads())
        with says(ValueError, f"n must be at most {most}"):
            fv.set_num_threads(most + 1)
        with says(ValueError, "n must be at least 1"):
            fv.set_num_threads(0)
        with says(TypeError, "n must be an integer"):
            fv.set_num_threads(1.5)
    finally:
        fv.set_num_threads(None)


def test_the_environment_limits_threads():
    assert run_program("allowed_threads", FASTVI_NUM_THREADS=1) == "1\n"
    # joblib's workers have the second, Dask's the third.
    for ours, numbas, openmps, expected in ((2, 3, 1, 2), (None, 3, 1, 3), (None, None, "1,4", 1)):
        given = {"FASTVI_NUM_THREADS": ours, "NUMBA_NUM_THREADS": numbas, "OMP_NUM_THREADS": openmps}
        assert run_program("allowed_threads", **given) == f"{expected}\n"
    assert "FASTVI_NUM_THREADS must be an integer >= 1, not 'two'" in run_program(
        "allowed_threads", FASTVI_NUM_THREADS="two"
    )


def test_the_pool_of_numba_is_not_started():
    """Once it is there, numba compiles no more if NUMBA_NUM_THREADS changes, which Dask does."""
    assert run_program("numba_pool") == "not started\n"


@pytest.mark.parametrize("threaded_before", [True, False])
@pytest.mark.parametrize("length", ["short", "long"])
def test_call_at_exit(threaded_before, length):
    out, err = finish(start_program("call_at_exit", length, "started" if threaded_before else "not"))
    assert out.count("at exit True") == 2
    assert err == ""


def test_call_when_a_module_is_torn_down():
    out, err = finish(start_program("call_at_teardown"))
    assert "torn down True" in out
    assert "Error" not in err
