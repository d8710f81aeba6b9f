"""Packed divisions and calls of log or exp in the assembly of the sums over arrays, as JSON."""

import json
import re

import numpy as np

from fastvi.kernels.discrete import chunks, entropies

HALVES = (0.5, 0.5)
jobs = {
    "_kl_sums64": (chunks._kl_sums64, np.float64, (HALVES,)),
    "_kl_sums32": (chunks._kl_sums32, np.float32, (HALVES,)),
    "_js_sums64": (chunks._js_sums64, np.float64, (HALVES,)),
    "_js_sums32": (chunks._js_sums32, np.float32, (HALVES,)),
    "_weighted_js_sums": (chunks._weighted_js_sums, np.float64, (HALVES,)),
    "_cross_sums": (entropies._cross_sums, np.float64, (1.0,)),
}
counts = {}
for name, (function, dtype, rest) in jobs.items():
    p = np.full(100, 0.01, dtype)
    p.flags.writeable = False
    function(p, p, *rest)
    (code,) = function.inspect_asm().values()
    counts[name] = {
        "packed": len(re.findall(r"\bvdivp[ds]\b[^\n]*%[yz]mm", code)),
        "calls": len(re.findall(r"\bcall\w*\b[^\n]*\b_?(?:log|exp)\w*", code)),
    }
print(json.dumps(counts))
