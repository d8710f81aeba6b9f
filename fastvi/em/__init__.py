"""Gaussian mixtures fitted to data by EM: `fit_mixture` and its result."""

from .fitting import fit_mixture
from .result import MixtureFit
from .variational import VariationalMixtureFit

__all__ = ["MixtureFit", "VariationalMixtureFit", "fit_mixture"]
