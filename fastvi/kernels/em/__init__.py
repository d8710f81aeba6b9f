"""EM for Gaussian mixtures: `fastvi.fit_mixture`, and the same steps for compiled code of the user's."""

from __future__ import annotations

from ..loading import on_first_use

__getattr__ = on_first_use(
    __name__,
    workspace="e_step",
    fit="iterations",
    standardize="standardization",
    unstandardize_mixture="standardization",
    seed="seeding",
    cluster="seeding",
    mixture_of_clusters="seeding",
    responsibilities="e_step",
    log_joint="e_step",
    maximise="m_step",
)
