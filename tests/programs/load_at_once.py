"""First calls in several threads at once, then in a forked process; prints what they find as JSON.

With "compiled" none of their kernels may come from the compiler.
"""

import json
import os
import sys
import threading

import fastvi as fv

# Rows of tables: a single distribution would be a call of the kernel of one pair. The other two have small
# kernels.
p, q = [[0.1, 0.2, 0.7]], [[0.25, 0.25, 0.5]]
CALLS = {
    "kl": lambda: float(fv.kl(p, q)[0]),
    "slope": lambda: float(fv.kl_grad(p, q)[1][0, 2]),
    "gaussians": lambda: fv.kl(fv.Gaussian(0.1, 0.2), fv.Gaussian(0.3, 0.7)),
}
found = {}
gate = threading.Barrier(4)


def run(thread):
    gate.wait()
    for name in ("kl", "slope") if thread % 2 else ("slope", "kl"):
        found[f"{name} {thread}"] = CALLS[name]()


threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len({value for name, value in found.items() if name.startswith("kl")}) == 1

child = os.fork()
if child == 0:
    os._exit(0 if abs(CALLS["gaussians"]() - CALLS["gaussians"]()) == 0.0 else 1)
assert os.waitpid(child, 0)[1] == 0

all_pairs = fv.kernels.discrete.all_pairs
stats = [kernel.stats for kernel in (all_pairs.ROWS["kl"], all_pairs.kl_grad_rows)]
misses, hits = (sum(sum(getattr(s, of).values()) for s in stats) for of in ("cache_misses", "cache_hits"))
if "compiled" in sys.argv:
    assert misses == 0, misses
values = {"kl": found["kl 0"], "slope": found["slope 0"], "gaussians": CALLS["gaussians"]()}
print(json.dumps({**values, "hits": hits}))
