"""Divergences of many distributions from what they have in common: public functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common.validation import (
    axis_indices,
    explain,
    float_array,
    log_unit,
    mass_code,
    mixture_weights,
    unit_tolerance,
)
from ..kernels.discrete.masses import NORMALIZE, UNIT
from ..kernels.discrete.registry import ROWS, Row
from .docstrings import documented
from .labelled import unlabelled
from .missing import nan_policy_of, row_sums
from .pairing import Pairing, pair_up, shaped
from .rows import Axis, Result, values_of

#: A joint distribution has no mass that the formula allows to be other than one.
_OF_DISTRIBUTIONS = Row("mutual_information", measures=False)


@documented
def js_many(
    P: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    axis: int = -1,
    base: float | None = None,
    mass: str = "unit",
) -> float:
    r"""Jensen-Shannon divergence of several distributions.

    .. math:: \mathrm{JS}_w(P_1, \dots, P_k) = \sum_i w_i \mathrm{KL}(P_i \,\|\, m)
              = H(m) - \sum_i w_i H(P_i), \quad m = \sum_i w_i P_i

    It is computed as the first sum, whose terms are not negative. It is the mutual information of an index
    with the probabilities `weights` and an outcome with the distribution of this index.

    Parameters
    ----------
    P : array_like, shape (k, n)
        One distribution a row, or a column for ``axis=0``.
    weights : array_like, shape (k,), optional
        Weights >= 0 that sum to one within 1e-6, which is divided out. Default: 1 / k each.
    axis : int, optional
        The axis of the distributions. Default: the last.
    %(base)s
    %(mass)s

    Returns
    -------
    float
        The divergence, in nats unless `base` says otherwise: from 0 to the entropy of the weights.

    Raises
    ------
    %(raises)s

    References
    ----------
    J. Lin, Divergence Measures Based on the Shannon Entropy, IEEE Trans. Inf. Theory 37 (1991), eq. 5.1.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.js_many([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.5, 0.25, 0.25], base=2)
    1.5
    """
    code, unit = mass_code(ROWS["js"], mass), log_unit(base)
    table = float_array("P", P)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"P must have shape (k, n), and be not empty, not {table.shape}")
    (along,) = axis_indices((axis,), 2, f"shape {table.shape} of P")
    rows = np.require(table if along == -1 else table.T, requirements=["C", "A", "W"])
    count = len(rows)
    shares = np.full(count, 1.0 / count) if weights is None else mixture_weights(weights)
    if shares.size != count:
        raise ValueError(f"weights must have shape ({count},), one for each distribution, not {shares.shape}")
    run, space = kernels.discrete.dependence.js_many, np.empty((kernels.discrete.dependence.JS_SPACE, count))
    value, near = run(rows, shares, code, space), np.ones(count, bool)
    tolerance = unit_tolerance(getattr(P, "dtype", table.dtype), rows.shape[1])
    if value != value and code == UNIT:
        # The kernel knows the tolerance of the type that it computes with, not that of the entries given.
        near = np.abs(row_sums(rows, False) - 1.0) <= tolerance
        if near.all():
            value = run(rows, shares, NORMALIZE, space)
    if value != value:
        least = NORMALIZE if code == UNIT else code
        for k, row in enumerate(rows):
            alone = run(rows[k : k + 1], np.ones(1), least, np.empty((len(space), 1)))
            if np.isnan(alone) or (code == UNIT and not near[k]):
                explain([("P", row, (k,), tolerance)], along, code, False)
    return float(value / unit)


@documented
def mutual_information(
    joint: ArrayLike,
    *,
    axis: Axis = None,
    dim: Any = None,
    base: float | None = None,
    mass: str = "unit",
    keepdims: bool = False,
    nan_policy: str = "raise",
) -> Result:
    r"""Mutual information of the variables of a joint distribution, their total correlation if more than two.

    .. math:: I(p) = \mathrm{KL}\Bigl(p \,\Big\|\, \prod_a p_a\Bigr)
              = \sum_{i j \dots} p_{ij\dots} \log \frac{p_{ij\dots}}{p^{(1)}_i p^{(2)}_j \cdots}
              = \sum_a H(p_a) - H(p)

    with the marginals p_a of its axes. It is computed as a divergence, whose terms are not negative.

    Parameters
    ----------
    joint : array_like
        Probabilities, or a table of counts with ``mass="normalize"``. DataFrames, DataArrays, Dask arrays and
        masked arrays are taken as by `js`.
    axis : tuple of int or None, optional
        The axes of the variables, two or more. Default: all. Other axes stay in the result.
    dim : tuple of str, optional
        The names of these axes, of an `xarray.DataArray`.
    %(base)s
    %(mass_of_distributions)s
    keepdims : bool, optional
        Whether `axis` stays in the result with length one.
    %(nan_policy)s

    Returns
    -------
    float or ndarray
        The mutual information, in nats unless `base` says otherwise: 0 where the variables are independent.
        %(returned)s

    Raises
    ------
    %(raises)s

    References
    ----------
    T. M. Cover, J. A. Thomas, Elements of Information Theory, 2nd ed. (2006), eq. 2.28.
    S. Watanabe, Information Theoretical Analysis of Multivariate Correlation, IBM J. Res. Dev. 4
    (1960).

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.mutual_information([[0.5, 0.0], [0.0, 0.5]], base=2)
    1.0
    >>> fv.mutual_information([[1, 2], [2, 4]], mass="normalize")
    0.0
    """
    code, unit = mass_code(_OF_DISTRIBUTIONS, mass), log_unit(base)
    policy = nan_policy_of(nan_policy)

    def compute(p: Any, q: Any, axis: Axis, keepdims: bool) -> Result:
        pair = pair_up(p, p, axis, ("joint",))
        if len(pair.axes) < 2:
            raise ValueError(f"joint must have two axes or more, one for each variable: axis is {axis!r}")
        values = values_of(_informations, pair, code, False, policy, ("joint",))
        return shaped(values / unit, pair, keepdims)

    if dim is not None and axis is None:
        axis = -1
    return unlabelled(compute, joint, joint, axis, dim, keepdims)


def _informations(pair: Pairing, code: int) -> NDArray[np.float64]:
    """The mutual information of each row."""
    rows = pair.p if len(pair.p) == len(pair.rows_p) else pair.p[pair.rows_p]
    rows.flags.writeable = False
    values, lengths = np.empty(len(rows)), np.array(pair.lengths, np.int64)
    space = np.empty((2, sum(pair.lengths)))
    kernels.discrete.dependence.mutual_information_rows(rows, lengths, code, space, values)
    return values
