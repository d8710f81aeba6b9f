"""An entropy after the cache directory, the first argument, is removed or made a "file"."""

import shutil
import sys
from pathlib import Path

import fastvi as fv

cache = Path(sys.argv[1])
shutil.rmtree(cache, ignore_errors=True)
if "file" in sys.argv[2:]:
    cache.touch()
assert abs(fv.entropy([0.5, 0.5]) - 0.6931471805599453) < 1e-15
print("fine")
