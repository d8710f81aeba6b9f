"""Children that are forked while another thread of the parent computes."""

import multiprocessing
import threading

import fastvi as fv
from long_pair import p, q

stop = threading.Event()


def busy():
    while not stop.is_set():
        fv.kl(p, q)


def child(queue):
    queue.put(fv.kl(p, q))


wanted = fv.kl(p, q)
thread = threading.Thread(target=busy)
thread.start()
context = multiprocessing.get_context("fork")
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
