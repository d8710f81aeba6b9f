"""Projections of mixtures, grids and tables."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(
    __name__, workspace="optimum", m_projection="mixture_projections", i_projection="mixture_projections"
)
