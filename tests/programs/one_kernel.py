"""The density of a Gaussian, because its kernel is compiled in a third of a second.

With the argument "hits" also how many kernels came from the cache on disk, with "file" where fastvi is.
"""

import math
import sys

import fastvi as fv

assert abs(fv.Gaussian(0.0, 1.0).logpdf(1.0) + 0.5 + 0.5 * math.log(2.0 * math.pi)) < 1e-15
print("fine")
if "hits" in sys.argv:
    print(sum(fv.kernels.mixtures.mixture_logpdf_many.stats.cache_hits.values()))
if "file" in sys.argv:
    print(fv.__file__)
