"""The fit of a model that another process has pickled."""

import pickle
import sys
from pathlib import Path

import fastvi as fv

print(fv.fit(pickle.loads(Path(sys.argv[1]).read_bytes())).q)
