"""Expectations under a Gaussian: trapezoid rule on a lattice, and contour integrals."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
