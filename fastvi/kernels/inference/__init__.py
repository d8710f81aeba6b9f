"""Fits of q to a log joint, ELBO and evidence."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
