"""First calls in several threads at once, then in a forked process; prints what they find as JSON.

With "compiled" none of their kernels may come from the compiler.
"""

import json
import os
import sys
import threading

import fastvi as fv

# Rows of tables: a single distribution would be a call of the kernel of one pair.
p, q = [[0.1, 0.2, 0.7]], [[0.25, 0.25, 0.5]]
CALLS = {
    "kl": lambda: float(fv.kl(p, q)[0]),
    "entropy": lambda: float(fv.entropy(p)[0]),
    "js": lambda: float(fv.js(p, q)[0]),
}
found = {}
gate = threading.Barrier(4)


def run(thread):
    gate.wait()
    for name in ("kl", "entropy") if thread % 2 else ("entropy", "kl"):
        found[f"{name} {thread}"] = CALLS[name]()


threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len({value for name, value in found.items() if name.startswith("kl")}) == 1

child = os.fork()
if child == 0:
    os._exit(0 if abs(CALLS["js"]() - CALLS["js"]()) == 0.0 else 1)
assert os.waitpid(child, 0)[1] == 0

rows = fv.kernels.discrete.all_pairs.ROWS
misses = sum(sum(rows[name].stats.cache_misses.values()) for name in ("kl", "cross_entropy"))
hits = sum(sum(rows[name].stats.cache_hits.values()) for name in ("kl", "cross_entropy"))
if "compiled" in sys.argv:
    assert misses == 0, misses
print(json.dumps({"kl": found["kl 0"], "entropy": found["entropy 0"], "js": CALLS["js"](), "hits": hits}))
