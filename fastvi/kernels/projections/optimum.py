"""An optimum of a projection: scratch space, and the report.

For `mixture_projections` and, but for the scratch space, `grid_projections`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..borrowing import Matrix, Vector, packed
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

    factor: Matrix  #: (D, D) of the frame: chol, rotated to the sharpest directions
    new_factor: Matrix  #: (D, D) after a step
    product: Matrix  #: (D, D) new_factor times its transpose


class Workspace(NamedTuple):
    """Scratch space for I-projections of mixtures in D dimensions."""

    quadrature: moments.Workspace
    newton: newton.Workspace
    trial_mean: Vector  #: (D,) after a step of the descent
    trial_chol: Matrix  #: (D, D)
    mean: Vector  #: (D,) after a step of the refinement
    matrices: Matrices
    vectors: Vector  #: (2 D,) two vectors
    moments: Vector  #: (MOMENTS,)
    trial_moments: Vector  #: (MOMENTS,)


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
    ndarray

    Examples
    --------
    >>> from fastvi import kernels
    >>> space = kernels.projections.workspace(2, 2)
    """
    return packed(
        Workspace(
            quadrature=moments.workspace(components),
            newton=newton.workspace(dim),
            trial_mean=np.empty(dim),
            trial_chol=np.empty((dim, dim)),
            mean=np.empty(dim),
            matrices=Matrices(np.empty((dim, dim)), np.empty((dim, dim)), np.empty((dim, dim))),
            vectors=np.empty(2 * dim),
            moments=np.empty(MOMENTS),
            trial_moments=np.empty(MOMENTS),
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
