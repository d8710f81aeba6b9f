"""Expectations under a Gaussian by lattices and by contour integrals."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
