"""First calls in several threads at once, then in a forked process; prints what they find as JSON.

With "compiled" none of their kernels may come from the compiler.
"""

import json
import os
import sys
import threading

import numpy as np

import fastvi as fv

# Small kernels: those of rows of pairs compile three times as long. Without fused products, as v2 has it, the
# divergence of these rows has other bits.
rows = np.random.default_rng(8).dirichlet(np.ones(40), 2)
mixture = fv.GaussianMixture([0.25, 0.75], [[-1.0, 0.0], [2.0, 1.0]], [np.eye(2)] * 2)
CALLS = {
    "js": lambda: float(fv.js_many(rows)),
    "density": lambda: float(mixture.logpdf([0.5, 0.25])),
    "gaussians": lambda: fv.kl(fv.Gaussian(0.1, 0.2), fv.Gaussian(0.3, 0.7)),
}
found = {}
gate = threading.Barrier(4)


def run(thread):
    gate.wait()
    for name in ("js", "density") if thread % 2 else ("density", "js"):
        found[f"{name} {thread}"] = CALLS[name]()


threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for first in ("js", "density"):
    assert len({value for name, value in found.items() if name.startswith(first)}) == 1

child = os.fork()
if child == 0:
    os._exit(0 if abs(CALLS["gaussians"]() - CALLS["gaussians"]()) == 0.0 else 1)
assert os.waitpid(child, 0)[1] == 0

known = fv.kernels.discrete.dependence.js_many, fv.kernels.densities.mixtures.mixture_logpdf_many
stats = [kernel.stats for kernel in known]
misses, hits = (sum(sum(getattr(s, of).values()) for s in stats) for of in ("cache_misses", "cache_hits"))
if "compiled" in sys.argv:
    assert misses == 0, misses
values = {"js": found["js 0"], "density": found["density 0"], "gaussians": CALLS["gaussians"]()}
print(json.dumps({**values, "hits": hits}))
