"""Threads, forks, the end of the interpreter, the compile cache, and what an import may cost."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
from divergence_rows import PAIRED, parameters

import fastvi as fv
from fastvi.common import threads

ROOT = Path(fv.__file__).parents[1]

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
    """The names of threads that worked: a test of two threads must not pass on one."""
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


def environment(**changes):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **{k: str(v) for k, v in changes.items()}}
    return {k: v for k, v in env.items() if k not in changes or changes[k] is not None}


def start(code, *flags, env=None, cwd=None):
    return subprocess.Popen(
        [sys.executable, *flags, "-c", code],
        env=environment() if env is None else env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a process group of its own: a hanging fork takes its children along when it is killed
        start_new_session=True,
    )


def finish(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        pytest.fail("the process hangs")
    assert process.returncode == 0, err
    return out, err


LONG = """
import numpy as np, numba
import fastvi as fv
rng = np.random.default_rng(5)
p, q = rng.dirichlet(np.ones(600_000), size=2)
"""

FORK = """
import multiprocessing

def work(k):
    # threaded calls in the child: a long array and a table
    return fv.kl(p, q) if k % 2 else float(fv.pairwise(P).sum())

P = rng.dirichlet(np.ones(40), size=400)
numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
wanted = [work(0), work(1)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(work, range(6), chunksize=1) == wanted * 3
    assert [work(0), work(1)] == wanted
    assert pool.map(work, range(6), chunksize=1) == wanted * 3
assert [work(0), work(1)] == wanted
from fastvi.common import threads
print("pool", threads._pool is not None)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_fork_after_a_threaded_call():
    out, _ = finish(start(LONG + FORK))
    assert "pool True" in out or numba.config.NUMBA_NUM_THREADS == 1


@needs_fork
def test_a_forked_child_has_threads_of_its_own():
    """It inherits the pool as an object without threads, and perhaps a lock that nobody will release."""
    code = """
import multiprocessing
from fastvi.common import threads

def child(queue):
    value = fv.kl(p, q)
    queue.put((value, [t.is_alive() for t in threads._pool._threads]))

numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
wanted = fv.kl(p, q)
context = multiprocessing.get_context("fork")
queue = context.Queue()
with threads._lock:
    process = context.Process(target=child, args=(queue,))
    process.start()
value, alive = queue.get(timeout=60)
process.join(60)
assert process.exitcode == 0
assert value == wanted
assert alive and all(alive), alive
print("alive")
"""
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one processor: nothing to share out")
    assert finish(start(LONG + code))[0] == "alive\n"


@needs_fork
def test_fork_while_another_thread_computes():
    """The child may be born while the pool's lock is held, and must not wait for it."""
    out, _ = finish(
        start(
            LONG
            + """
import multiprocessing, threading
stop = threading.Event()
def busy():
    while not stop.is_set():
        fv.kl(p, q)
wanted = fv.kl(p, q)
thread = threading.Thread(target=busy)
thread.start()
context = multiprocessing.get_context("fork")
def child(queue):
    queue.put(fv.kl(p, q))
for _ in range(10):
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == wanted
    process.join(60)
    assert process.exitcode == 0
stop.set()
thread.join()
print("ten children")
"""
        )
    )
    assert "ten children" in out


@pytest.mark.parametrize("threaded_before", [True, False])
@pytest.mark.parametrize("length", ["short", "long"])
def test_call_at_exit(threaded_before, length):
    code = (
        LONG
        + f"""
import atexit, threading
x, y = (p[:2] / p[:2].sum(), q[:2] / q[:2].sum()) if {length == "short"} else (p, q)
def last():
    value = fv.kl(x, y)
    value_by_rows = fv.kl(np.stack([x, x]), y)
    assert value > 0.0 and np.all(np.abs(value_by_rows / value - 1) < 1e-12)
    print("at exit", value > 0.0)
atexit.register(last)
# runs earlier than atexit, when no new thread may be started any more
threading._register_atexit(last)
if {threaded_before}:
    fv.kl(p, q)
"""
    )
    out, err = finish(start(code))
    assert out.count("at exit True") == 2
    assert err == ""


def test_call_when_a_module_is_torn_down():
    code = (
        LONG
        + """
class Last:
    def __init__(self):
        self.kl, self.p, self.q, self.print = fv.kl, p, q, print
        self.wanted = fv.kl(p, q)
    def __del__(self):
        self.print("torn down", self.kl(self.p, self.q) == self.wanted)
last = Last()
"""
    )
    out, err = finish(start(code))
    assert "torn down True" in out
    assert "Error" not in err


# The entropy, because its kernel is compiled in less than half the time of the others.
SMALL = """
import fastvi as fv
assert abs(fv.entropy([0.5, 0.5]) - 0.6931471805599453) < 1e-15
print("fine")
"""


def test_two_processes_compile_into_one_cache(tmp_path):
    env = environment(NUMBA_CACHE_DIR=tmp_path / "cache")
    pair = [start(SMALL, "-W", "error", env=env) for _ in range(2)]
    for process in pair:
        assert finish(process)[0] == "fine\n"
    assert list((tmp_path / "cache").rglob("*.nbc"))
    loaded = SMALL + (
        "from fastvi.kernels.discrete.all_pairs import ROWS\n"
        "print(sum(ROWS['cross_entropy'].stats.cache_hits.values()))"
    )
    assert finish(start(loaded, env=env))[0] == "fine\n1\n"


def test_cache_directory_that_is_missing(tmp_path):
    out, _ = finish(start(SMALL, "-W", "error", env=environment(NUMBA_CACHE_DIR=tmp_path / "not" / "there")))
    assert out == "fine\n"
    assert (tmp_path / "not" / "there").is_dir()


def test_cache_directory_that_cannot_be_made(tmp_path):
    """Below a plain file no directory can be made, not even by root."""
    blocker = tmp_path / "file"
    blocker.touch()
    out, _ = finish(start(SMALL, "-W", "error", env=environment(NUMBA_CACHE_DIR=blocker / "cache")))
    assert out == "fine\n"


def test_cache_directory_that_is_removed_after_the_import(tmp_path):
    cache = tmp_path / "cache"
    code = f"import fastvi, shutil\nshutil.rmtree({str(cache)!r}, ignore_errors=True)\n" + SMALL
    assert finish(start(code, env=environment(NUMBA_CACHE_DIR=cache)))[0] == "fine\n"


def test_cache_directory_that_is_read_only(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    try:
        assert finish(start(SMALL, env=environment(NUMBA_CACHE_DIR=cache)))[0] == "fine\n"
    finally:
        cache.chmod(0o755)


def test_cache_directory_that_turns_read_only(tmp_path):
    """Writable when the kernels are made, unwritable when they are saved."""
    cache = tmp_path / "cache"
    code = f"""
import fastvi, os, shutil
cache = {str(cache)!r}
shutil.rmtree(cache, ignore_errors=True)
open(cache, "w").close()
"""
    assert finish(start(code + SMALL, env=environment(NUMBA_CACHE_DIR=cache)))[0] == "fine\n"


@pytest.fixture
def installed(tmp_path):
    """A copy of the package in a place of its own, without anything compiled."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "fastvi", site / "fastvi", ignore=shutil.ignore_patterns("__pycache__"))
    return site


@pytest.mark.parametrize("home", ["writable", "unwritable"])
def test_install_directory_that_is_read_only(installed, tmp_path, home):
    for folder in (installed / "fastvi", installed / "fastvi" / "kernels"):
        # a plain file in the place of the cache directory stops root as well
        (folder / "__pycache__").touch()
        folder.chmod(0o555)
    place = tmp_path / "home"
    if home == "writable":
        place.mkdir()
    else:
        (tmp_path / "file").touch()
        place = tmp_path / "file" / "home"
    env = environment(PYTHONPATH=installed, HOME=place, XDG_CACHE_HOME=place, NUMBA_CACHE_DIR=None)
    try:
        code = SMALL + "print(fv.__file__)"
        out, _ = finish(start(code, "-W", "error", env=env, cwd=tmp_path))
    finally:
        for folder in (installed / "fastvi", installed / "fastvi" / "kernels"):
            folder.chmod(0o755)
    assert out.startswith("fine\n")
    assert str(installed) in out
    assert bool(list(tmp_path.rglob("*.nbc"))) == (home == "writable")


IMPORT = """
import sys
import fastvi
loaded = [m for m in sys.modules if m.partition(".")[0] in ("matplotlib", "tqdm", "mpmath", "pytest")]
loaded += [m for m in sys.modules if m.startswith("scipy.stats")]
assert not loaded, loaded
import gc
from numba.core.dispatcher import Dispatcher
kernels = [o for o in gc.get_objects() if isinstance(o, Dispatcher) and o.__module__.startswith("fastvi")]
compiled = [k for k in kernels if k.signatures]
assert not compiled, compiled
assert gc.isenabled()
import threading
assert threading.active_count() == 1
fastvi.entropy([0.5, 0.5])
kernels = [o for o in gc.get_objects() if isinstance(o, Dispatcher) and o.__module__.startswith("fastvi")]
print(len([k for k in kernels if k.signatures]))
"""


def test_import_compiles_nothing_and_loads_little(tmp_path):
    """The number of kernels compiled by a call shows that compiled ones would have been seen."""
    env = environment(NUMBA_CACHE_DIR=tmp_path)
    out, err = finish(start(IMPORT, "-W", "error", env=env))
    assert int(out) > 0
    assert err == ""


def test_import_leaves_the_garbage_collector_as_it_was():
    code = "import gc\ngc.disable()\nimport fastvi\nassert not gc.isenabled()\nprint('off')"
    assert finish(start(code, "-W", "error"))[0] == "off\n"


def test_star_import_gives_the_public_names():
    names = {}
    exec("from fastvi import *", names)
    assert set(fv.__all__) <= set(names)
    assert all(callable(names[name]) for name in fv.__all__)
