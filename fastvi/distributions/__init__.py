"""Distributions: Gaussians, mixtures, grids, the q's of a fit; their KL divergences, entropies, bounds."""

from .bounds import kl_bounds, mixture_entropy_bounds
from .gaussian import Gaussian
from .grid import Grid2D
from .integrals import Bounds, Estimate
from .kl_and_entropy import entropy_estimate, kl_estimate
from .mixture import GaussianMixture
from .student import StudentT
from .variational import TransformedGaussian, TransformedMixture, TruncatedGaussian

__all__ = [
    "Bounds",
    "Estimate",
    "Gaussian",
    "GaussianMixture",
    "Grid2D",
    "StudentT",
    "TransformedGaussian",
    "TransformedMixture",
    "TruncatedGaussian",
    "entropy_estimate",
    "kl_bounds",
    "kl_estimate",
    "mixture_entropy_bounds",
]
