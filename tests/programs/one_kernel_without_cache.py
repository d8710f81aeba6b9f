"""The density of a Gaussian after the cache directory, the first argument, is removed or made a "file"."""

import math
import shutil
import sys
from pathlib import Path

import fastvi as fv

cache = Path(sys.argv[1])
shutil.rmtree(cache, ignore_errors=True)
if "file" in sys.argv[2:]:
    cache.touch()
assert abs(fv.Gaussian(0.0, 1.0).logpdf(1.0) + 0.5 + 0.5 * math.log(2.0 * math.pi)) < 1e-15
print("fine")
