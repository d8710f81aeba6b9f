"""Models as the kernels see them: how a log joint is called, on which support, with which faults."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(__name__)
