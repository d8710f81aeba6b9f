"""Projections: the member of a family that is closest to a distribution, in either direction of KL."""

from .projections import i_projection, m_projection
from .result import Projection

__all__ = ["Projection", "i_projection", "m_projection"]
