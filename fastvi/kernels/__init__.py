"""Everything that is compiled. Kernels check nothing, raise nothing and know nothing of the API.

The modules that the API calls are loaded when they are first used, as ``kernels.tables`` for instance:
setting up a hundred compiled functions takes 60 ms, which `import fastvi` should not.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_MODULES = (
    "callbacks",
    "divergences",
    "draws",
    "elementary",
    "em",
    "engine",
    "estimates",
    "evidence",
    "fits",
    "foreign",
    "frames",
    "gaussians",
    "grids",
    "laplace",
    "lattices",
    "mixtures",
    "nested",
    "newton",
    "panels",
    "products",
    "projections",
    "steps",
    "supports",
    "tables",
    "targets",
    "truncated",
)


def __getattr__(name: str) -> ModuleType:
    if name not in _MODULES:
        raise AttributeError(f"module 'fastvi.kernels' has no attribute {name!r}")
    return import_module(f".{name}", __name__)
