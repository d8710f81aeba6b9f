"""Variational inference at the speed of a function call."""

import gc as _gc

# What is imported here takes 6 ms, but numba's import leaves Python's garbage collector on the verge of a
# full collection, which takes 35 ms, a tenth of that import. It can wait: an import makes no garbage.
_collecting = _gc.isenabled()
_gc.disable()

from . import overloads as _overloads  # noqa: F401  (makes the functions work in compiled code)
from .divergences import (
    alpha_divergence,
    bhattacharyya,
    chi2,
    cross_entropy,
    entropy,
    hellinger,
    jeffreys,
    js,
    js_distance,
    kl,
    kl_grad,
    renyi,
    total_variation,
)
from .tables import pairwise

if _collecting:
    _gc.enable()

__version__ = "0.1.0"

__all__ = [
    "alpha_divergence",
    "bhattacharyya",
    "chi2",
    "cross_entropy",
    "entropy",
    "hellinger",
    "jeffreys",
    "js",
    "js_distance",
    "kl",
    "kl_grad",
    "pairwise",
    "renyi",
    "total_variation",
]
