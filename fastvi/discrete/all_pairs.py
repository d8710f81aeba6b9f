"""`pairwise`: all divergences between two sets of distributions, tile by tile."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import threads
from ..common.progress import bar
from ..common.validation import choice, explain, float_array, mass_code, order_of, unit_of
from ..kernels.discrete.masses import ANY
from ..kernels.discrete.registry import METRICS, Row, default_theta, kernel_of
from .docstrings import documented
from .labelled import is_dask, matched_rows, pairs_of_dask
from .sparse import is_sparse
from .sparse_pairs import sparse_pairs

#: Most bytes of a table of logarithms or roots, which stays in the second-level cache, and of a band of rows.
_TABLE_BYTES = 1 << 19
_BAND_BYTES = 1 << 22

#: Most columns and rows of a block of the result, and most rows of a band, and of a block that is checked.
_COLUMNS, _ROWS, _BAND_ROWS, _CHECKED_ROWS = 256, 64, 4096, 8192


def _rows(name: str, value: ArrayLike) -> NDArray[Any]:
    array = float_array(name, value)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions (one distribution a row), not shape {array.shape}")
    if array.shape[1] == 0:
        raise ValueError(f"{name} has empty rows: shape {array.shape}")
    return array


def _block(array: NDArray[Any], first: int, last: int, dtype: Any) -> NDArray[Any]:
    """Some rows, contiguous and read-only, so that a strided array is copied a block at a time."""
    rows = np.ascontiguousarray(array[first:last], dtype=dtype).view()
    rows.flags.writeable = False
    return rows


def _check(name: str, array: NDArray[Any], dtype: Any, code: int, step: int) -> None:
    """Raise for the first row that is not a distribution."""
    for first in range(0, array.shape[0], step):
        rows = _block(array, first, first + step, dtype)
        numbers = np.arange(len(rows))
        out = np.empty(len(rows))
        kernels.discrete.all_pairs.ROWS["total_variation"](
            rows, rows, numbers, numbers, (0.0, 0.0), code, out
        )
        refused = np.isnan(out)
        if refused.any():
            k = int(np.argmax(refused))
            explain([(name, rows[k], (first + k,))], -1, code, False)


class _Exact:
    """A block of the result by the kernel of the metric."""

    def __init__(self, name: str, q: NDArray[Any], theta: tuple[float, float], code: int) -> None:
        self.loop, self.q, self.theta, self.code = kernels.discrete.all_pairs.PAIRS[name], q, theta, code

    def __call__(self, p: NDArray[Any]) -> NDArray[np.float64]:
        values = np.empty((len(p), len(self.q)))
        self.loop(p, self.q, self.theta, self.code, values)
        return values


def _product(padded: NDArray[np.float64], table: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    values = np.zeros((len(padded), table.shape[1]))
    kernels.discrete.all_pairs.add_products(padded, table, values)
    return values[:rows]


class _Products:
    """KL by the matrix product with a table of the logarithms of `q`."""

    def __init__(self, q: NDArray[Any], masses: NDArray[np.float64], code: int) -> None:
        self.q, self.masses, self.code = q, masses, code
        self.table = np.zeros((_padded(q.shape[1]), len(q)))
        kernels.discrete.all_pairs.minus_logs(q, masses, self.table)

    def __call__(self, p: NDArray[Any]) -> NDArray[np.float64]:
        padded = np.zeros((_padded(len(p)), len(self.table)))
        padded[: len(p), : p.shape[1]] = p
        values = _product(padded, self.table, len(p))
        kernels.discrete.all_pairs.kl_from_products(p, self.q, self.masses, self.code, values)
        return values


class _Overlaps:
    """The Hellinger and the Bhattacharyya distance by the matrix product of the roots of `p` and `q`."""

    def __init__(self, name: str, q: NDArray[Any], masses: NDArray[np.float64], code: int) -> None:
        self.name, self.q, self.masses, self.code = name, q, masses, code
        self.table = np.ascontiguousarray(self._roots(q, masses, len(q)).T)

    def _roots(self, rows: NDArray[Any], masses: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        out = np.zeros((count, _padded(rows.shape[1])))
        kernels.discrete.all_pairs.roots(rows, masses, self.code, out)
        return out

    def __call__(self, p: NDArray[Any]) -> NDArray[np.float64]:
        masses = _masses(p)
        values = _product(self._roots(p, masses, _padded(len(p))), self.table, len(p))
        if self.name == "hellinger":
            kernels.discrete.all_pairs.hellinger_from_overlaps(
                p, self.q, masses, self.masses, self.code, values
            )
        else:
            kernels.discrete.all_pairs.bhattacharyya_from_overlaps(p, self.q, self.code, values)
        return values


class _Entropies:
    """JS, or its root, by the entropies of p, of q and of their mixtures."""

    def __init__(self, q: NDArray[Any], masses: NDArray[np.float64], code: int, rooted: bool) -> None:
        self.q, self.code, self.rooted = q, code, rooted
        self.halves, self.entropies = self._prepare(q, masses)

    @staticmethod
    def _prepare(rows: NDArray[Any], masses: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        halves, entropies = np.empty(rows.shape), np.empty(len(rows))
        kernels.discrete.all_pairs.halves(rows, masses, halves)
        kernels.discrete.all_pairs.entropies(halves, entropies)
        return halves, entropies

    def __call__(self, p: NDArray[Any]) -> NDArray[np.float64]:
        halves, entropies = self._prepare(p, _masses(p))
        values = np.empty((len(p), len(self.q)))
        kernels.discrete.all_pairs.js_tile(
            p, self.q, halves, self.halves, entropies, self.entropies, self.code, self.rooted, values
        )
        return values


def _even(n: int, most: int, multiple: int) -> int:
    """The size of nearly equal parts of `n`, a multiple of `multiple`, at most `most` rounded up to one."""
    parts = -(-n // max(most, multiple))
    return max(multiple, -(-n // max(parts, 1) // multiple) * multiple)


def _padded(n: int) -> int:
    strip = int(kernels.discrete.all_pairs.STRIP)
    return -(-n // strip) * strip


def _masses(rows: NDArray[Any]) -> NDArray[np.float64]:
    out = np.empty(len(rows))
    kernels.discrete.all_pairs.masses(rows, out)
    return out


def _method(name: str, q: NDArray[Any], theta: tuple[float, float], code: int) -> Any:
    masses = _masses(q)
    if name == "kl" and masses.all():
        return _Products(q, masses, code)
    if name in ("hellinger", "bhattacharyya"):
        return _Overlaps(name, q, masses, code)
    if name in ("js", "js_distance") and code != ANY:
        return _Entropies(q, masses, code, rooted=name == "js_distance")
    return _Exact(name, q, theta, code)


@documented
def pairwise(
    P: ArrayLike,
    Q: ArrayLike | None = None,
    metric: str = "kl",
    *,
    alpha: float | None = None,
    base: float | None = None,
    mass: str = "unit",
    out: NDArray[Any] | None = None,
    progress: bool = False,
) -> NDArray[Any]:
    r"""Divergences between all pairs of rows.

    .. math:: \mathrm{out}_{ij} = D(P_i \,\|\, Q_j)

    Parameters
    ----------
    P : array_like, shape (n, d)
        One distribution a row. Sparse matrices of SciPy are computed from their non-zeros.
    Q : array_like, shape (m, d), optional
        Default: `P`. The columns of two DataFrames are matched by their labels, the last dimension of two
        DataArrays by its name and labels. Dask arrays give one, and nothing is computed yet.
    metric : str, optional
        The function of that name, by default `kl`. One of
        %(metrics)s.
    alpha : float, optional
        The order, for %(metrics_of_order)s (and only there).
    %(base)s
        For %(metrics_with_base)s.
    %(mass)s
        Not with %(metrics_of_distributions)s.
    out : ndarray, shape (n, m), optional
        float64 or float32 array to write to, a `numpy.memmap` for instance. Memory beyond the result stays
        below 64 MiB for rows of up to 250,000 entries, whatever n and m.
    progress : bool, optional
        Whether to show a bar, where tqdm is installed.

    Returns
    -------
    ndarray, shape (n, m)
        `out`, or a new float64 array.

    Raises
    ------
    %(raises)s

    They are raised for an unknown metric as well, an `out` of another shape or type, and an `alpha` that is
    missing or has no use.

    Notes
    -----
    "kl", "hellinger" and "bhattacharyya" are computed by matrix products, "js" as a difference of entropies.
    Where these cancel (a small result), the exact kernel computes the entry again, so that results are as
    accurate as those of `kl`, `hellinger` and so on.

    References
    ----------
    S. Kullback, R. A. Leibler, On Information and Sufficiency, Ann. Math. Statist. 22 (1951), eq. 2.4.

    Examples
    --------
    >>> import fastvi as fv
    >>> fv.pairwise([[0.5, 0.5], [0.9, 0.1]], metric="total_variation")
    array([[0. , 0.4],
           [0.4, 0. ]])
    """
    row = METRICS[choice("metric", metric, tuple(METRICS))]
    code, theta, unit = mass_code(row, mass), _theta(row, alpha), unit_of(row, base)
    name = kernel_of(row, theta)
    if is_sparse(P) or is_sparse(Q):
        return sparse_pairs(row, name, theta, code, unit, P, Q, partial(_result, out))
    if is_dask(P) or is_dask(Q):
        if out is not None:
            raise ValueError("out has no use with Dask arrays, which are not computed yet")
        blocks = partial(pairwise, metric=metric, alpha=alpha, base=base, mass=mass)
        return pairs_of_dask(blocks, P, Q)  # type: ignore[no-any-return]
    P, Q = matched_rows(P, Q)

    p = _rows("P", P)
    q = p if Q is None else _rows("Q", Q)
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"P and Q must have rows of one length: shapes {p.shape} and {q.shape}")
    result = _result(out, (p.shape[0], q.shape[0]))
    dtype = np.result_type(p, q)
    width = p.shape[1]
    columns = _even(len(q), min(_COLUMNS, _TABLE_BYTES // (8 * width)), 8)
    height = _even(len(p), min(_ROWS, _TABLE_BYTES // (8 * width)), kernels.discrete.all_pairs.STRIP)
    step = max(columns, min(_CHECKED_ROWS, _BAND_BYTES // (8 * width)))
    _check("P", p, dtype, code, step)
    if q is not p:
        _check("Q", q, dtype, code, step)

    # A table serves a few columns of the result. The blocks of rows of a band are spread over the threads.
    band = max(height, min(_BAND_ROWS, _BAND_BYTES // (8 * width)))
    bands = list(itertools.product(range(0, len(q), columns), range(0, len(p), band)))
    for column, first in bar(bands, progress, "pairwise", "tile"):
        if first == 0:
            fill = _method(name, _block(q, column, column + columns, dtype), theta, code)
        last = min(first + band, len(p))

        def block(
            i: int, fill: Any = fill, column: int = column, first: int = first, last: int = last
        ) -> None:
            low = first + i * height
            high = min(low + height, last)
            values = fill(_block(p, low, high, dtype))
            if unit != 1.0:
                values /= unit
            result[low:high, column : column + columns] = values

        threads.run(block, -(-(last - first) // height))
    return result


def _theta(row: Row, alpha: float | None) -> tuple[float, float]:
    if row.orders:
        if alpha is None:
            raise ValueError(f"metric {row.name!r} needs alpha")
        return order_of(row, alpha), 0.0
    if alpha is not None:
        raise ValueError(f"alpha has no use with metric {row.name!r}: got alpha={alpha!r}")
    theta: tuple[float, float] = default_theta(row)
    return theta


def _result(out: NDArray[Any] | None, shape: tuple[int, int]) -> NDArray[Any]:
    if out is None:
        return np.empty(shape)
    if not isinstance(out, np.ndarray) or out.dtype.kind != "f":
        raise TypeError(f"out must be a float array, not {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    return out
