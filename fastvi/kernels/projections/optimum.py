"""An optimum of a projection: its scratch space, its status and its report."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..borrowing import plain
from ..compiler import exported, kernel
from ..optimizers import newton
from ..quadrature import moments
from ..quadrature.moments import MOMENTS

#: Optima with a smaller KL divergence between them are the same.
SAME = 1e-6
NEARLY_SAME = 1e-4  #: on the way there
SAME_START = 1e-2  #: starts


class Report(NamedTuple):
    """What is known of an optimum: the entries of a `report`, in this order."""

    kl: Any
    error: Any  #: a bound of that of the divergence
    gradient_norm: Any  #: in the metric of Fisher's information
    evaluations: Any  #: nodes used
    status: Any


class Matrices(NamedTuple):
    """Square matrices of the refinement of an optimum."""

    factor: Any  #: (D, D) of the frame: chol, rotated to the sharpest directions
    new_factor: Any  #: (D, D) where a step leads
    product: Any  #: (D, D)


class Workspace(NamedTuple):
    """Scratch space for I-projections of mixtures in D dimensions."""

    quadrature: moments.Workspace
    newton: newton.Workspace
    trial_mean: Any  #: (D,) where a step on the way to an optimum leads
    trial_chol: Any  #: (D, D)
    mean: Any  #: (D,) where a step of the refinement leads
    matrices: Matrices
    vectors: Any  #: (2 D,) two vectors
    moments: Any  #: (MOMENTS,)
    trial_moments: Any  #: (MOMENTS,)


@exported
def workspace(components, dim):
    """Scratch space for I-projections: one for each thread.

    Parameters
    ----------
    components : int
        As many as the mixtures have, or more.
    dim : int
        At most 3.

    Returns
    -------
    tuple

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.workspace(2, 2)
    """
    return plain(
        Workspace(
            quadrature=moments.workspace(components),
            newton=newton.workspace(dim),
            trial_mean=np.empty(dim),
            trial_chol=np.empty((dim, dim)),
            mean=np.empty(dim),
            matrices=np.empty((3, dim, dim)),
            vectors=np.empty(2 * dim),
            moments=np.zeros(MOMENTS),
            trial_moments=np.zeros(MOMENTS),
        )
    )


@kernel
def write(report, out):
    """Write a `Report` to an array."""
    out[0], out[1], out[2] = report.kl, report.error, report.gradient_norm
    out[3], out[4] = report.evaluations, report.status


@kernel
def read(row):
    """The `Report` in an array."""
    return Report(row[0], row[1], row[2], row[3], row[4])
