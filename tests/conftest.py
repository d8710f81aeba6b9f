"""What all tests share: fixtures, and the compiled kernels, for which test processes wait for each other.

Kernels are cached on disk, but processes that start together would all compile the same ones, in a third of
their time. So a process that compiles a kernel holds a lock on it, and the next one finds it in the cache.
"""

from __future__ import annotations

import gc
import hashlib
import os
import tempfile
from pathlib import Path

# NumPy and SciPy load OpenBLAS. Its threads, one for each core, wait for each other in loops: differences of
# a Hessian take 21 s of CPU instead of 2.5.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numba
import numpy as np
import pytest
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import _nrt_python

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Programs are run by tests, not imported for doctests.
collect_ignore = ["programs"]

_LOCKS = Path(numba.config.CACHE_DIR or tempfile.gettempdir()) / "fastvi-locks"
_compile = Dispatcher.compile


def _compile_alone(self, signature):
    if isinstance(self._cache, NullCache):
        return _compile(self, signature)
    name = f"{self.py_func.__module__}.{self.py_func.__qualname__}{signature}"
    path = _LOCKS / hashlib.sha256(name.encode()).hexdigest()
    _LOCKS.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        return _compile(self, signature)


if fcntl is not None:
    Dispatcher.compile = _compile_alone

# What numba makes to compile sets the collector to work, and that went through all tests again and again: 16%
# of the time in which four examples of kernels are compiled.
gc.set_threshold(10_000, 10, 10)


def pytest_collection_finish():
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def listed_types():
    """No test compiles a kernel that a container has: a call with other types takes a user up to 20 s."""
    from fastvi.kernels import compiler, container

    if compiler.Kernel is None:
        yield
        return
    from fastvi.kernels.caching import KernelCache

    save = KernelCache.save_overload

    def save_listed(self, sig, cres):
        save(self, sig, cres)
        again = self._name in compiler.EXPORTED and container.has(self._name)
        assert not again, f"{self._name} is compiled again, for {sig}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KernelCache, "save_overload", save_listed)
        yield


@pytest.fixture
def counted():
    """Turn numba's counters of allocations on."""
    was = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    yield
    if not was:
        _nrt_python.memsys_disable_stats()


@pytest.fixture
def quiet():
    """Plain kernels divide by zero where compiled ones do, and NumPy's scalars would warn of it."""
    with np.errstate(all="ignore"):
        yield
