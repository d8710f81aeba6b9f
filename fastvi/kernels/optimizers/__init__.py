"""Optimizers: Newton steps, L-BFGS."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
