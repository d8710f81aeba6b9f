"""fastvi's functions, distributions and models inside the user's own `numba.njit` code."""

from ..kernels.loading import on_first_use
from . import arrays, densities, distributions, inference, models, projections, types

__all__ = ["arrays", "densities", "distributions", "inference", "models", "projections", "types"]

__getattr__ = on_first_use(__name__)
