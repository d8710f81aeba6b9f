"""Benchmarks: asv suites in bench_*.py; ``python -m bench.`` peers, growth, limits, instructions and
pairwise_kinds.

This file is imported before all others here, by asv, by pytest and by those commands. It sets the environment
variables that NumPy and Numba read when they are imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any

# One thread unless a benchmark says otherwise. BLAS and numexpr read these when they are loaded; XLA reads
# the last one, and with its own flags jax 0.10 still uses several threads.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NPROC"):
    os.environ[_name] = "1"

# fastvi reads OMP_NUM_THREADS as well, where nothing else is said. In benchmarks numba's number holds, which
# `contenders.use_threads` sets.
os.environ["FASTVI_NUM_THREADS"] = str(os.cpu_count() or 1)


#: ``FASTVI_BENCH=smoke``: only errors matter. Each suite keeps its smallest size and numba its usual cache.
SMOKE = os.environ.get("FASTVI_BENCH") == "smoke"


def sizes(*values: Any) -> tuple[Any, ...]:
    """The values of a parameter, smallest first."""
    return values[:1] if SMOKE else values


def _source_hash() -> str:
    """Identifies the source of the fastvi that will be imported, without importing it."""
    spec = importlib.util.find_spec("fastvi")
    folders = spec.submodule_search_locations if spec else None
    digest = hashlib.sha256()
    for folder in folders or ():
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# Numba's cache does not notice a change in the *callee* of a cached function, and asv installs one commit
# over the other: with the usual cache a benchmark could run code of the previous commit. So each state of the
# source has a directory of its own. A new directory for each process would be simpler, but asv starts a
# process for each benchmark and parameter, and each would compile everything again.
if not SMOKE:
    _CACHE = Path(__file__).parent.parent / ".asv" / "numba" / _source_hash()
    os.environ["NUMBA_CACHE_DIR"] = str(_CACHE)
