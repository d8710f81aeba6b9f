"""fastvi's functions, distributions and models inside the user's own `numba.njit` code."""

from . import arrays, distributions, inference, models, projections, types

__all__ = ["arrays", "distributions", "inference", "models", "projections", "types"]
