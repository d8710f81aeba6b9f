"""An optimum of a projection: scratch space, and the report.

For `mixture_projections` and, but for the scratch space, `grid_projections`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..borrowing import plain
from ..compiler import exported, kernel
from ..optimizers import newton
from ..quadrature import moments
from ..quadrature.moments import MOMENTS

#: KL divergence between two Gaussians below which they count as the same optimum,
SAME = 1e-6
NEARLY_SAME = 1e-4  #: before the refinement,
SAME_START = 1e-2  #: as starts.


class Report(NamedTuple):
    """An optimum: the entries of a `report`, in this order."""

    kl: Any
    error: Any  #: bound of the absolute error of the divergence
    gradient_norm: Any  #: in the metric of the Fisher information
    evaluations: Any  #: number of nodes used
    status: Any  #: a number of `statuses`


class Matrices(NamedTuple):
    """Square matrices of the refinement of an optimum."""

    factor: Any  #: (D, D) of the frame: chol, rotated to the sharpest directions
    new_factor: Any  #: (D, D) after a step
    product: Any  #: (D, D) new_factor times its transpose


class Workspace(NamedTuple):
    """Scratch space for I-projections of mixtures in D dimensions."""

    quadrature: moments.Workspace
    newton: newton.Workspace
    trial_mean: Any  #: (D,) after a step of the descent
    trial_chol: Any  #: (D, D)
    mean: Any  #: (D,) after a step of the refinement
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
