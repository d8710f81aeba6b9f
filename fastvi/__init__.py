"""Variational inference at the speed of a function call."""

import gc as _gc

# What is imported here takes 6 ms, but numba's import leaves Python's garbage collector on the verge of a
# full collection, which takes 35 ms, a tenth of that import. It can wait: an import makes no garbage.
_collecting = _gc.isenabled()
_gc.disable()

from . import overloads as _overloads  # noqa: F401  (makes the functions work in compiled code)
from .distributions import Gaussian, GaussianMixture, Grid2D
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
from .estimates import (
    Bounds,
    Estimate,
    entropy_estimate,
    kl_bounds,
    kl_estimate,
    mixture_entropy_bounds,
)
from .mixture_fits import MixtureFit, fit_mixture
from .projections import Projection, i_projection, m_projection
from .tables import pairwise

if _collecting:
    _gc.enable()

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "Grid2D",
    "MixtureFit",
    "Projection",
    "alpha_divergence",
    "bhattacharyya",
    "chi2",
    "cross_entropy",
    "entropy",
    "entropy_estimate",
    "fit_mixture",
    "hellinger",
    "i_projection",
    "jeffreys",
    "js",
    "js_distance",
    "kl",
    "kl_bounds",
    "kl_estimate",
    "kl_grad",
    "m_projection",
    "mixture_entropy_bounds",
    "pairwise",
    "renyi",
    "total_variation",
]
