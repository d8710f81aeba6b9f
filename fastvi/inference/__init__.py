"""Variational inference: models, ELBO, evidence, fits, batches of fits, maximum likelihood."""

from .batches import FitBatch, fit_batch
from .diagnostics import GradientCheck, check_gradient
from .evidence import Decomposition, decompose, log_evidence
from .evidence_maximization import ThetaFit, maximize_evidence
from .expectations import Gradient, elbo, elbo_grad
from .fitting import fit
from .linear_response import LinearResponse, Propagated
from .model import Model
from .results import Fit
from .verdicts import Diagnosis

__all__ = [
    "Decomposition",
    "Diagnosis",
    "Fit",
    "FitBatch",
    "Gradient",
    "GradientCheck",
    "LinearResponse",
    "Model",
    "Propagated",
    "ThetaFit",
    "check_gradient",
    "decompose",
    "elbo",
    "elbo_grad",
    "fit",
    "fit_batch",
    "log_evidence",
    "maximize_evidence",
]
