"""The density of a Gaussian after the cache directory, the first argument, is removed or made a "file".

The place where its kernel is kept is found before.
"""

import math
import shutil
import sys
from pathlib import Path

import fastvi as fv

cache = Path(sys.argv[1])
assert str(cache) in fv.kernels.mixtures.mixture_logpdf_many.full._cache.cache_path
shutil.rmtree(cache, ignore_errors=True)
if "file" in sys.argv[2:]:
    cache.touch()
assert abs(fv.Gaussian(0.0, 1.0).logpdf(1.0) + 0.5 + 0.5 * math.log(2.0 * math.pi)) < 1e-15
print("fine")
