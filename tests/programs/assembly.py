"""Packed divisions and calls of log or exp in the assembly of the sums over arrays, as JSON."""

import json
import re

import numpy as np

from fastvi.kernels.discrete import chunks, entropies

jobs = {
    "_kl_sums64": (chunks._kl_sums64, np.float64, ()),
    "_kl_sums32": (chunks._kl_sums32, np.float32, ()),
    "_js_sums": (chunks._js_sums, np.float64, ()),
    "_cross_sums": (entropies._cross_sums, np.float64, (1.0,)),
    "_kl_lifted": (chunks._kl_lifted, np.float64, ((0.0, 0.0),)),
    "_js_lifted": (chunks._js_lifted, np.float64, ((0.5, 0.5),)),
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
