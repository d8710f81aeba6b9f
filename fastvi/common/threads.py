"""One small thread pool, for loops of the API over kernels, which run without the GIL.

`parallel=True` is not used: after one such call a forked child dies (GNU OpenMP) and two Python threads
calling in at once abort the process (workqueue). Here work is cut into pieces whose number depends on the
data alone, so the number of threads and the order of the pieces cannot change the result.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numba

#: Array entries from which threads are used: with fewer, the 20 µs of handing over a piece are not gained.
WORTHWHILE = 1 << 17

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            workers = max(
                1,
                int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
                - 1,
            )
            _pool = ThreadPoolExecutor(workers, thread_name_prefix="fastvi")
        return _pool


def _forget_pool() -> None:
    """A forked child has the parent's pool object but none of its threads."""
    global _lock, _pool
    _lock = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def run_interruptibly(
    task: Callable[[int], None], pieces: int, workers: int, stop: Callable[[], None]
) -> None:
    """As `run`, while this thread waits, so that Ctrl-C is heard: `stop()` then makes the tasks return.

    For tasks that may take seconds: a thread in a kernel hears no signal.
    """
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
                member.join(0.1)
    except BaseException:
        over.set()
        stop()
        for member in team:
            if member.ident is not None:
                member.join(0.5)  # not forever: it may be compiling
        raise
    if errors:
        raise errors[0]


def run(task: Callable[[int], None], pieces: int) -> None:
    """Call ``task(i)`` for each i below `pieces`, on up to `numba.get_num_threads()` threads.

    The calling thread takes pieces too, so all get done even without other threads: where the pool is busy
    with other callers, or the interpreter is shutting down.
    """
    workers = min(pieces, numba.get_num_threads()) if pieces > 1 else 1
    counter = itertools.count()

    def work() -> None:
        while (i := next(counter)) < pieces:
            task(i)

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
