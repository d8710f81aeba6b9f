"""One small thread pool, for loops of the API over kernels, which run without the GIL.

`parallel=True` is not used: after one such call a forked child dies (GNU OpenMP) and two Python threads
calling in at once abort the process (workqueue). Here work is cut into pieces whose number depends on the
data alone, so the number of threads and the order of the pieces cannot change the result.
"""

from __future__ import annotations

import contextvars
import ctypes
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import numba
from numba.np.ufunc import parallel

from .validation import integer

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Array entries from which threads are used: with fewer, the 20 µs of handing over a piece are not gained.
WORTHWHILE = 1 << 17

#: Nanoseconds of work, as estimated, below which a call is not made interruptible.
SHORT = 0.3e9

#: Of each thread: whether it works on a piece of work that has been shared out, whose own is not.
_within = threading.local()

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _numba_has_begun() -> bool:
    """Whether numba's pool is there, which alone has the number that `numba.set_num_threads` was given."""
    return bool(getattr(parallel, "_is_initialized", True))


def _most() -> int:
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


#: What `set_num_threads` was called with.
_limit: int | None = None


#: As they were at the import: Dask changes its client's environment while it starts workers.
_variables = {
    name: os.environ.get(name, "").strip()
    for name in ("FASTVI_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
}


def _is_number(text: str) -> bool:
    return text.isdecimal() and int(text) >= 1


@functools.cache
def _limit_of_environment() -> int:
    ours, numbas, openmps = _variables.values()
    if ours:
        if not _is_number(ours):
            raise ValueError(f"FASTVI_NUM_THREADS must be an integer >= 1, not {ours!r}")
        return int(ours)
    # One for each level of nesting. Dask sets it to 1 for its workers, of which there is one for each core.
    outer = openmps.partition(",")[0].strip()
    return _most() if numbas or not _is_number(outer) else min(int(outer), _most())


def set_num_threads(n: int | None) -> None:
    """Let fastvi use at most so many threads, in all threads of this process.

    Results do not depend on it, to the last bit. Threads are used for long arrays, many rows, batches of
    fits, mixtures of many points, and log joints that take a millisecond or more. `numba.set_num_threads` is
    respected as well, and the smaller number holds.

    Parameters
    ----------
    n : int or None
        At least 1. None, as at the start: what the first of these environment variables says that was there
        at the import: FASTVI_NUM_THREADS, NUMBA_NUM_THREADS (which joblib sets for its workers) and
        OMP_NUM_THREADS (which Dask sets); else as many as there are processors.

    Raises
    ------
    ValueError
        A number below 1, or above what numba counts.
    TypeError
        No integer.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.set_num_threads(1)
    >>> fv.set_num_threads(None)
    """
    global _limit
    if n is not None:
        n = integer("n", n, 1)
        if n > _most():
            raise ValueError(f"n must be at most {_most()}, the number of threads that numba counts, not {n}")
    _limit = n


def allowed() -> int:
    """The number of threads to work on.

    `numba.get_num_threads` would start numba's pool, which is not used here. Once that is there, numba
    compiles no more if NUMBA_NUM_THREADS changes, which Dask does.
    """
    if getattr(_within, "a_piece", False):
        return 1
    limit = _limit_of_environment() if _limit is None else _limit
    return min(limit, numba.get_num_threads() if _numba_has_begun() else _most())


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, _most() - 1), thread_name_prefix="fastvi")
        return _pool


def _forget_pool() -> None:
    """A forked child has the parent's pool object but none of its threads."""
    global _helper, _lock, _pool
    _lock = threading.Lock()
    _pool = _helper = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


class _Helper:
    """A thread that runs a task of the main thread, which handles Ctrl-C meanwhile."""

    def __init__(self) -> None:
        self.busy = self.abandoned = False
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="fastvi helper")
        self._thread.start()

    def _work(self) -> None:
        while not self.abandoned:
            try:
                task = self._tasks.get()
                self._results.put((True, task()))
            except BaseException as error:
                self._results.put((False, error))
            task = None  # nothing of it is kept while this thread waits

    def call(self, task: Callable[[], _R]) -> _R:
        """The result of a task, or its exception."""
        self.busy = True
        self._tasks.put(task)
        while True:
            try:
                good, found = self._results.get(timeout=_WAIT)
            except queue.Empty:
                continue
            self.busy = False
            if good:
                return found  # type: ignore[no-any-return]
            try:
                raise found
            finally:
                del found

    def abandon(self, stop: Callable[[], None] | None) -> None:
        """Let the task end when its kernel returns, without result; `stop` makes that soon."""
        self.abandoned = True
        ident = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))
        if stop is not None:
            stop()
            self._thread.join(_WAIT_TO_STOP)


_helper: _Helper | None = None

#: Seconds of one wait for another thread: Python handles signals, such as Ctrl-C, between two waits.
_WAIT = 0.1

#: Seconds to wait for a thread after Ctrl-C: a kernel returns sooner, but the thread may be compiling.
_WAIT_TO_STOP = 0.5


def patiently(task: Callable[[], _R], stop: Callable[[], None] | None = None) -> _R:
    """``task()``, on another thread if this is the main one, which cannot handle Ctrl-C within a kernel.

    It takes 30 µs. After Ctrl-C the task goes on until its kernel returns, which ``stop()`` tells it to do,
    and its result is dropped.
    """
    global _helper
    if threading.current_thread() is not threading.main_thread() or (_helper and _helper.busy):
        return task()
    # Of another thread, the number is the largest.
    count, context = numba.get_num_threads() if _numba_has_begun() else 0, contextvars.copy_context()

    def with_settings() -> _R:
        if count:
            numba.set_num_threads(count)
        return context.run(task)

    try:
        _helper = _helper or _Helper()
    except RuntimeError:  # no new threads at interpreter shutdown
        return task()
    try:
        return _helper.call(with_settings)
    except BaseException:
        if _helper is not None and _helper.busy:
            left, _helper = _helper, None
            left.abandon(stop)
        raise


def interruptible(is_long: Callable[[Any], bool]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator: calls go `patiently` where one of their arguments is such that they may take long."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for value in (*args, *kwargs.values()):
                if is_long(value):
                    return patiently(functools.partial(function, *args, **kwargs))
            return function(*args, **kwargs)

        return call

    return decorate


def run_interruptibly(
    task: Callable[[int], None], pieces: int, workers: int, stop: Callable[[], None]
) -> None:
    """As `run`, while this thread waits and handles Ctrl-C: `stop()` then makes the tasks return.

    For tasks that may take seconds: a thread in a kernel handles no signal. One worker is the thread of
    `patiently`: to start one for each call takes 0.15 ms.
    """
    if min(pieces, workers) == 1:

        def work_alone() -> None:
            for i in range(pieces):
                task(i)

        patiently(work_alone, stop)
        return
    counter, over = itertools.count(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not over.is_set() and (i := next(counter)) < pieces:
                task(i)
        except BaseException as error:
            errors.append(error)

    team = [threading.Thread(target=work, daemon=True, name="fastvi") for _ in range(min(pieces, workers))]
    try:
        for member in team:
            member.start()
        for member in team:
            while member.is_alive():
                member.join(_WAIT)
    except BaseException:
        over.set()
        stop()
        for member in team:
            if member.ident is not None:
                member.join(_WAIT_TO_STOP)
        raise
    if errors:
        raise errors[0]


def run(task: Callable[[int], None], pieces: int) -> None:
    """Call ``task(i)`` for each i below `pieces`, on up to as many threads as are `allowed`.

    The calling thread takes pieces too, so all get done even without other threads: where the pool is busy
    with other callers, or the interpreter is shutting down.
    """
    workers = min(pieces, allowed()) if pieces > 1 else 1
    if workers == 1:
        for i in range(pieces):
            task(i)
        return
    counter, over = itertools.count(), threading.Event()
    outer = getattr(_within, "a_piece", False)

    def work() -> None:
        _within.a_piece = True
        try:
            while not over.is_set() and (i := next(counter)) < pieces:
                task(i)
        except BaseException:  # Ctrl-C, say: no thread begins another piece
            over.set()
            raise
        finally:
            _within.a_piece = outer

    futures: list[Future[None]] = []
    try:
        for _ in range(workers - 1):
            futures.append(_get_pool().submit(work))
    except RuntimeError:  # no new threads at interpreter shutdown
        pass
    try:
        work()
    finally:
        # A piece may still be running elsewhere: the arrays it writes to must outlive it.
        errors = [f.exception() for f in futures if not f.cancel()]
    for error in errors:
        if error is not None:
            raise error
