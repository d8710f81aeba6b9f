"""`pairwise`: all divergences between two sets of distributions, tile by tile."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..common import threads
from ..common.progress import bar
from ..common.validation import (
    choice,
    explain,
    float_array,
    mass_code,
    order_of,
    unit_of,
    unit_tolerance,
)
from ..kernels.discrete.masses import ANY, LARGEST_MASS, NORMALIZE, UNIT
from ..kernels.discrete.registry import METRICS, Row, default_theta, kernel_of
from .docstrings import documented
from .labelled import is_dask, matched_rows, pairs_of_dask
from .missing import is_masked, nan_policy_of, pairs_around
from .quick import of_lists, plain_product
from .rows import divergence, quick_values
from .sparse import is_sparse
from .sparse_pairs import sparse_pairs

#: Most bytes of a table of factors, which stays in the second-level cache, and of a band of rows.
_TABLE_BYTES = 1 << 19
_BAND_BYTES = 1 << 22

#: Most columns and rows of a block of the result, and most rows of a band, and of a block that is checked.
_COLUMNS, _ROWS, _BAND_ROWS, _CHECKED_ROWS = 256, 128, 4096, 8192

#: Entries of pairs from which rows that are near each other, but not near the centre, get their own.
_CLUSTER = 1 << 18

#: Entries of all pairs up to which the kernel of the metric computes each pair: 55 to 120 µs, where the
#: tables for a matrix product take 100 to 270.
_FEW = 1 << 14

#: Longest rows whose product has two lines.
_LONGEST_PAIR = 1 << 15


def _rows(name: str, value: ArrayLike) -> NDArray[Any]:
    array = float_array(name, np.ma.getdata(value) if isinstance(value, np.ma.MaskedArray) else value)
    if array.ndim != 2:
        raise ValueError(f"{name} must have two dimensions (one distribution a row), not shape {array.shape}")
    if array.shape[1] == 0:
        raise ValueError(f"{name} has empty rows: shape {array.shape}")
    return array


def _table(name: str, value: ArrayLike) -> NDArray[Any]:
    """Rows in the type that they were given in, with their mask."""
    rows = _rows(name, value)
    return value if isinstance(value, np.ndarray) else rows


def _block(array: NDArray[Any], first: int, last: int, dtype: Any) -> NDArray[Any]:
    """Some rows, contiguous and read-only, so that a strided array is copied a block at a time."""
    rows = np.ascontiguousarray(array[first:last], dtype=dtype).view()
    rows.flags.writeable = False
    return rows


def _checked_masses(
    name: str, array: NDArray[Any], dtype: Any, kind: Any, code: int, step: int
) -> NDArray[np.float64]:
    """The masses of the rows, as `dtype`. ValueError for the first row that is not a distribution.

    `kind` is the type that the entries were given in, which says how far a sum may be from one.
    """
    masses = np.empty(len(array))
    for first in range(0, len(array), step):
        rows = _block(array, first, first + step, dtype)
        part = masses[first : first + step]
        kernels.discrete.centred.masses(rows, part)
        if code == UNIT:
            good = np.abs(part - 1.0) <= unit_tolerance(kind, rows.shape[1])
        else:
            good = (part <= LARGEST_MASS) & ((part > 0.0) | (code == ANY))
        if not good.all():
            k = int(np.argmin(good))
            pair = (name, rows[k], (first + k,), unit_tolerance(kind, rows.shape[1]))
            explain([pair], -1, code, False)
    return masses


def _fixed(array: NDArray[Any]) -> NDArray[np.float64]:
    """The array in float64 and read-only, as the kernels of `centred` take rows."""
    rows = np.ascontiguousarray(array, np.float64).view()
    rows.flags.writeable = False
    return rows


def _transposed(array: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty(array.shape[::-1])
    kernels.discrete.centred.transpose(array, out)
    return out


class _Exact:
    """Some columns of the result, by the kernel of the metric."""

    def __init__(self, name: str, q: NDArray[Any], theta: tuple[float, float], code: int) -> None:
        self.name, self.q, self.theta, self.code = name, q, theta, code

    def fill(self, p: NDArray[Any], values: NDArray[np.float64]) -> None:
        """Compute the values that are NaN."""
        rows, columns = map(np.ascontiguousarray, np.nonzero(np.isnan(values)))
        if rows.size:
            found = np.empty(rows.size)
            loop = kernels.discrete.all_pairs.ROWS[self.name]
            loop(p, self.q, rows, columns, self.theta, self.code, found)
            values[rows, columns] = found

    def __call__(self, p: NDArray[Any], masses: NDArray[np.float64], first: int) -> NDArray[np.float64]:
        """The results of the rows of `p`: row i from column first + i, and 0 before it."""
        values = np.full((len(p), len(self.q)), np.nan)
        for i in range(max(0, -first), len(p)):
            values[i, : first + i] = 0.0
        self.fill(p, values)
        return values


class _Method(NamedTuple):
    """How `_Centred` computes a metric."""

    factors: str  #: `centred.FACTORS` are <factors>_left and <factors>_right
    results: str  #: of `centred.RESULTS`
    gap: float  #: times the square of a difference of masses, what this difference adds
    lines: int = 1  #: of the product


_METHODS = {
    "kl": _Method("kl", "plain", 0.5),
    "cross_entropy": _Method("kl", "entropy", 0.5),
    "js": _Method("js", "plain", 0.125),
    "js_distance": _Method("js", "root", 0.125),
    "jeffreys": _Method("jeffreys", "plain", 1.0, lines=2),
    "hellinger": _Method("root", "root", 0.125),
    "bhattacharyya": _Method("root", "overlap", 0.125),
    "chi2": _Method("chi2", "chi2", 1.0),
    "renyi": _Method("alpha", "renyi", 0.5),
    "alpha_divergence": _Method("alpha", "plain", 0.5),
}


class _Centred(_Exact):
    """Some columns by deviations from a centre, the mean of their rows: see `kernels.discrete.centred`."""

    sums: NDArray[np.float64]
    _cluster: tuple[NDArray[np.intp], _Centred] | None = None

    def __init__(
        self, name: str, q: NDArray[Any], masses: NDArray[np.float64], theta: tuple[float, float], code: int
    ) -> None:
        super().__init__(name, q, theta, code)
        self.method = _METHODS[name]
        self.masses, self.rows, self.scales = masses, _fixed(q), self._scales(masses)
        self.centre = np.zeros((4, q.shape[1]))
        self.choose_centre()
        self.prepare()

    def choose_centre(self) -> None:
        kernels.discrete.centred.mean_centre(self.rows, self.scales, self.centre)

    def _scales(self, masses: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty(len(masses))
        kernels.discrete.centred.scales(masses, self.code, out)
        return out

    def _factors(
        self, name: str, rows: NDArray[np.float64], scales: NDArray[np.float64], shape: tuple[int, int]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        out, sums = np.zeros(shape), np.empty((len(rows), kernels.discrete.centred.SUMS))
        kernels.discrete.centred.FACTORS[name](rows, scales, self.centre, self.theta, out, sums)
        return out, sums

    def prepare(self) -> None:
        """Compute what the columns need, the `sums` of their `centred.FACTORS` among it."""
        raise NotImplementedError

    def approach(
        self, p: NDArray[np.float64], masses: NDArray[np.float64], first: int
    ) -> NDArray[np.float64]:
        """The results, NaN where they have lost digits."""
        raise NotImplementedError

    def conclude(
        self,
        p: NDArray[np.float64],
        scales: NDArray[np.float64],
        sums: NDArray[np.float64],
        first: int,
        least: float,
        values: NDArray[np.float64],
    ) -> None:
        """Replace the products by the results, NaN where these have lost digits."""
        centred = kernels.discrete.centred
        extra = np.zeros(len(p))
        if self.name == "cross_entropy":
            centred.entropies(p, scales, extra)
        elif self.name == "chi2":
            extra[:] = np.inf if self.code == ANY else 3.0
        gap = 0.0 if self.code == ANY else self.method.gap
        results = centred.RESULTS[self.method.results]
        results(sums, self.sums, gap, least, self.theta, extra, first, values)
        where = self.infinite_where()
        zeros_p, zeros_q = sums[:, centred.ZEROS].any(), self.sums[centred.ZEROS].any()
        if (
            (where & centred.OUTSIDE_Q and zeros_q)
            or (where & centred.OUTSIDE_P and zeros_p)
            or (where & centred.APART and zeros_p and zeros_q)
        ):
            work = np.empty(len(self.q), np.int64)
            centred.set_infinities(self._supports(p), self._columns, where, first, work, values)

    @cached_property
    def _columns(self) -> NDArray[np.int64]:
        return np.ascontiguousarray(self._supports(self.rows).T)

    @staticmethod
    def _supports(rows: NDArray[np.float64]) -> NDArray[np.int64]:
        bits = np.empty((len(rows), -(-rows.shape[1] // 64)), np.int64)
        kernels.discrete.centred.supports(rows, bits)
        return bits

    def infinite_where(self) -> int:
        centred = kernels.discrete.centred
        factors, order = self.method.factors, self.theta[0]
        if factors in ("js", "root"):
            return 0
        if factors == "alpha" and 0.0 < order < 1.0:
            return int(centred.APART) if self.name == "renyi" else 0
        if factors == "jeffreys":
            return int(centred.OUTSIDE_P | centred.OUTSIDE_Q)
        return int(centred.OUTSIDE_P if factors == "alpha" and order < 0.0 else centred.OUTSIDE_Q)

    def __call__(self, p: NDArray[Any], masses: NDArray[np.float64], first: int) -> NDArray[np.float64]:
        rows = _fixed(p)
        values = self.approach(rows, masses, first)
        lost = np.isnan(values)
        while np.count_nonzero(lost) * p.shape[1] >= _CLUSTER and self._from_cluster(
            rows, masses, lost, values
        ):
            lost = np.isnan(values)
        if lost.any():
            if self.name != "cross_entropy":
                kernels.discrete.centred.set_zeros(rows, self.rows, values)
            self.fill(p, values)
        return values

    def _from_cluster(
        self,
        p: NDArray[np.float64],
        masses: NDArray[np.float64],
        lost: NDArray[np.bool_],
        values: NDArray[np.float64],
    ) -> bool:
        """Replace lost values by results with another centre, the mean of similar rows; whether that helps.

        Where a row of p is near many rows of q, these are a cluster, and so are the rows of p near most of
        them.
        """
        columns = np.flatnonzero(lost[np.argmax(lost.sum(axis=1))])
        rows = np.flatnonzero(2 * lost[:, columns].sum(axis=1) > len(columns))
        if len(columns) == len(self.q) or len(rows) * len(columns) * p.shape[1] < _CLUSTER:
            return False
        # The next rows often have the same cluster. A thread that replaces it for another changes no result.
        cluster = self._cluster
        if cluster is None or not np.array_equal(cluster[0], columns):
            made = type(self)(self.name, self.q[columns], self.masses[columns], self.theta, self.code)
            self._cluster = cluster = columns, made
        found = cluster[1].approach(_fixed(p[rows]), masses[rows], -len(rows))
        place = np.ix_(rows, columns)
        better = lost[place] & ~np.isnan(found)
        values[place] = np.where(better, found, values[place])
        return bool(2 * np.count_nonzero(better) > np.count_nonzero(lost[place]))


class _Products(_Centred):
    """Results by a matrix product."""

    def prepare(self) -> None:
        factors, sums = self._sided("right", self.rows, self.scales, len(self.q))
        self.table, self.sums = _transposed(factors), _transposed(sums)

    def _sided(
        self, side: str, rows: NDArray[np.float64], scales: NDArray[np.float64], count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shape = count, self.method.lines * _padded(rows.shape[1])
        return self._factors(f"{self.method.factors}_{side}", rows, scales, shape)

    def approach(
        self, p: NDArray[np.float64], masses: NDArray[np.float64], first: int
    ) -> NDArray[np.float64]:
        centred = kernels.discrete.centred
        scales = self._scales(masses)
        factors, sums = self._sided("left", p, scales, _padded(len(p)))
        values = np.zeros((len(factors), len(self.q)))
        work = np.empty((2, centred.STRIP, len(self.q) if factors.shape[1] > centred.SEGMENT else 0))
        centred.add_products(factors, self.table, first, work, values)
        values = values[: len(p)]
        self.conclude(p, scales, sums, first, centred.least_part(p.shape[1]), values)
        return values


class _FromZero(_Products):
    """The Bhattacharyya distance with the centre 0, where small overlaps lose no digits."""

    def choose_centre(self) -> None:
        self.centre[:] = 0.0

    def prepare(self) -> None:
        super().prepare()
        self.method = self.method._replace(results="overlap_from_zero")

    def infinite_where(self) -> int:
        return int(kernels.discrete.centred.APART)


class _Overlaps(_Products):
    """The Bhattacharyya distance: from the centre 0 where most rows hardly overlap."""

    @cached_property
    def _from_zero(self) -> _FromZero:
        return _FromZero(self.name, self.q, self.masses, self.theta, self.code)

    def approach(
        self, p: NDArray[np.float64], masses: NDArray[np.float64], first: int
    ) -> NDArray[np.float64]:
        values = super().approach(p, masses, first)
        lost = np.isnan(values)
        if np.count_nonzero(lost) * p.shape[1] >= _CLUSTER:
            values = np.where(lost, self._from_zero.approach(p, masses, first), values)
        return values


class _JensenShannon(_Centred):
    """JS, or its root, from the divergences of p, of q and of their mixture from the centre."""

    def prepare(self) -> None:
        c = self.centre[kernels.discrete.centred.C]
        self.positive_centre = np.where(c > 0.0, c, 1.0)
        self.factors, sums, self.far = self._sides(self.rows, self.scales)
        self.sums = _transposed(sums)

    def _sides(
        self, rows: NDArray[np.float64], scales: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The factors of rows, their sums, and the largest factor of each in units of the centre."""
        factors, sums = self._factors("js", rows, scales, rows.shape)
        return factors, sums, (np.abs(factors) / self.positive_centre).max(axis=1)

    def approach(
        self, p: NDArray[np.float64], masses: NDArray[np.float64], first: int
    ) -> NDArray[np.float64]:
        centred = kernels.discrete.centred
        scales = self._scales(masses)
        factors, sums, far = self._sides(p, scales)
        values = np.zeros((len(p), len(self.q)))
        centred.subtract_middles(factors, self.factors, far, self.far, self.positive_centre, first, values)
        self.conclude(p, scales, sums, first, centred.least_part(16), values)
        return values


def _even(n: int, most: int, multiple: int) -> int:
    """The size of nearly equal parts of `n`, a multiple of `multiple`, at most `most` rounded up to one."""
    parts = -(-n // max(most, multiple))
    return max(multiple, -(-n // max(parts, 1) // multiple) * multiple)


def _padded(n: int) -> int:
    strip = int(kernels.discrete.centred.STRIP)
    return -(-n // strip) * strip


def _method(
    name: str, q: NDArray[Any], masses: NDArray[np.float64], theta: tuple[float, float], code: int
) -> _Exact:
    """What computes these columns of the result."""
    order = theta[0]
    if name == "alpha_divergence" and order == 1.0:
        name = "kl"
    if name in ("js", "js_distance"):
        return _JensenShannon(name, q, masses, theta, code)
    if name == "bhattacharyya":
        return _Overlaps(name, q, masses, theta, code)
    powers = name in ("renyi", "alpha_divergence")
    if (
        name not in _METHODS
        or (powers and (order == 0.0 or abs(order) > kernels.discrete.centred.MOST_ORDER))
        or (name == "cross_entropy" and code == ANY)
        or (name == "jeffreys" and q.shape[1] > _LONGEST_PAIR)
    ):
        return _Exact(name, q, theta, code)
    return _Products(name, q, masses, theta, code)


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
    nan_policy: str = "raise",
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
    %(nan_policy)s

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
    Metrics that have a product form, all but "js", "js_distance" and "total_variation", are computed by a
    matrix product of the deviations of the rows from their mean, which keeps the digits where rows are
    similar. Where it does not, and for small tables, the kernel of the metric computes each pair. Results
    are as accurate as those of `kl`, `hellinger` and so on. For a symmetric metric, ``pairwise(P)`` takes
    half the time of ``pairwise(P, P.copy())``.

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
        if nan_policy_of(nan_policy) != "raise":
            raise ValueError(f"nan_policy={nan_policy!r} is not for sparse matrices: drop their NaN entries")
        return sparse_pairs(row, name, theta, code, unit, P, Q, partial(_result, out))
    if is_dask(P) or is_dask(Q):
        if out is not None:
            raise ValueError("out has no use with Dask arrays, which are not computed yet")
        blocks = partial(pairwise, metric=metric, alpha=alpha, base=base, mass=mass, nan_policy=nan_policy)
        return pairs_of_dask(blocks, P, Q)  # type: ignore[no-any-return]
    if out is None and nan_policy == "raise":
        values = _few_pairs(row, name, theta, code, P, P if Q is None else Q)
        if values is not None:
            return values if unit == 1.0 else values / unit
    Q = None if Q is P else Q
    P, Q = matched_rows(P, Q)

    if nan_policy_of(nan_policy) != "raise" or is_masked(P) or is_masked(Q):
        P, Q = _table("P", P), None if Q is None else _table("Q", Q)
        whole = partial(
            pairwise, metric=metric, alpha=alpha, base=base, mass=mass, out=out, progress=progress
        )

        def each(p: Any, q: Any) -> Any:
            return divergence(row.name, theta, p, q, -1, None, base, mass, False, False, nan_policy)

        empty = nan_policy == "propagate" and code == NORMALIZE
        return pairs_around(whole, each, P, Q, code, empty)

    p = _rows("P", P)
    q = p if Q is None else _rows("Q", Q)
    kinds = getattr(P, "dtype", p.dtype), getattr(P if Q is None else Q, "dtype", q.dtype)
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"P and Q must have rows of one length: shapes {p.shape} and {q.shape}")
    result = _result(out, (p.shape[0], q.shape[0]))
    dtype = np.result_type(p, q)
    width = p.shape[1]
    columns = _even(len(q), min(_COLUMNS, _TABLE_BYTES // (8 * width)), 8)
    height = _even(len(p), min(_ROWS, _TABLE_BYTES // (8 * width)), kernels.discrete.centred.STRIP)
    step = max(columns, min(_CHECKED_ROWS, _BAND_BYTES // (8 * width)))
    masses_p = _checked_masses("P", p, dtype, kinds[0], code, step)
    masses_q = masses_p if q is p else _checked_masses("Q", q, dtype, kinds[1], code, step)
    if code == UNIT and max(map(unit_tolerance, kinds, (width, width))) > unit_tolerance(dtype, width):
        code = NORMALIZE  # the kernels know the tolerance of the type that they compute with

    # A table serves a few columns of the result. The blocks of rows of a band are spread over the threads. Of
    # a symmetric result, only the bands down to the diagonal are computed.
    symmetric = row.symmetric and q is p
    band = columns if symmetric else max(height, min(_BAND_ROWS, _BAND_BYTES // (8 * width)))
    bands = [
        (column, first)
        for column in range(0, len(q), columns)
        for first in range(0, min(len(p), column + 1) if symmetric else len(p), band)
    ]
    for column, first in bar(bands, progress, "pairwise", "tile"):
        if first == 0:
            part = slice(column, column + columns)
            fill = _method(name, _block(q, column, column + columns, dtype), masses_q[part], theta, code)
        last = min(first + band, len(p))
        diagonal = symmetric and first == column

        def block(
            i: int,
            fill: _Exact = fill,
            column: int = column,
            first: int = first,
            last: int = last,
            diagonal: bool = diagonal,
        ) -> None:
            low = first + i * height
            high = min(low + height, last)
            rows = _block(p, low, high, dtype)
            start = low - column if diagonal else 0
            values = fill(rows, masses_p[low:high], start + 1 if diagonal else low - high)
            if np.isnan(values).any():
                k, j = (int(x) for x in np.argwhere(np.isnan(values))[0])
                pair = [("P", rows[k], (low + k,)), ("Q", fill.q[j], (column + j,))]
                explain(pair, -1, code, False)
            if unit != 1.0:
                values /= unit
            if diagonal:
                values = np.ascontiguousarray(values[:, start:])
                square = values[:, : high - low]
                square += square.T.copy()
            result[low:high, column + start : column + columns] = values
            if symmetric:
                result[column + start : column + columns, low:high] = _transposed(values)

        threads.run(block, -(-(last - first) // height))
    return result


def _few_pairs(
    row: Row, name: str, theta: tuple[float, float], code: int, P: Any, Q: Any
) -> NDArray[np.float64] | None:
    """The result for two small tables; None for others, and where a row is invalid."""
    P, Q = of_lists(P, Q)
    half = row.symmetric and Q is P
    tables = plain_product(P, Q, half, _FEW)
    values = None if tables is None else quick_values(name, theta, tables, code, False)
    if tables is None or values is None:
        return None
    if not half:
        return values.reshape(tables.shape)
    result = np.empty(tables.shape)
    result[tables.rows_p, tables.rows_q] = values
    result[tables.rows_q, tables.rows_p] = values
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
