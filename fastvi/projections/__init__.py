"""Projections: the member of a family that is closest to a distribution, in either direction of KL."""

from .projections import i_projection, m_projection
from .reduction import Reduction, reduce_mixture
from .result import Projection

__all__ = ["Projection", "Reduction", "i_projection", "m_projection", "reduce_mixture"]
