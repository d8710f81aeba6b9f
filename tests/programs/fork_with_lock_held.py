"""A child that is forked while the lock on the pool of threads is held: its threads are its own."""

import multiprocessing

import numba

import fastvi as fv
from fastvi.common import threads
from long_pair import p, q


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
assert alive, "no threads in the child"
assert all(alive), alive
print("alive")
