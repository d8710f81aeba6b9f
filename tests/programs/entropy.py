"""An entropy, because its kernel is compiled in less than half the time of the others.

With the argument "hits" also how many kernels came from the cache on disk, with "file" where fastvi is.
"""

import sys

import fastvi as fv

assert abs(fv.entropy([0.5, 0.5]) - 0.6931471805599453) < 1e-15
print("fine")
if "hits" in sys.argv:
    from fastvi.kernels.discrete.divergences import KERNELS

    print(sum(KERNELS["cross_entropy"].whole.stats.cache_hits.values()))
if "file" in sys.argv:
    print(fv.__file__)
