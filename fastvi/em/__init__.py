"""Gaussian mixtures fitted to data by EM: `fit_mixture` and its result."""

from .fitting import fit_mixture
from .result import MixtureFit

__all__ = ["MixtureFit", "fit_mixture"]
