"""EM for Gaussian mixtures."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(
    __name__,
    workspace="e_step",
    fit="iterations",
    standardize="standardization",
    unstandardize_mixture="standardization",
    seed="seeding",
    responsibilities="e_step",
    log_joint="e_step",
    maximise="m_step",
)
