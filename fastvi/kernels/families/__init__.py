"""The families of Gaussians that q is chosen from: a file for each, and a table of them."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
