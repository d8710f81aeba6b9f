"""Rows of sparse matrices of SciPy, as pairs of short dense rows of the entries that either stores."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..common import threads
from ..common.validation import axis_indices, float_array
from ..kernels.discrete.masses import ANY
from .pairing import Pairing, Place

#: Most entries of the tables of one batch of pairs.
_BATCH = 1 << 18


class Rows(NamedTuple):
    """A sparse matrix, row by row."""

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    entries: NDArray[Any]
    shape: tuple[int, int]
    kind: Any  #: the type that the entries had

    @property
    def parts(self) -> tuple[Any, ...]:
        """What kernels take."""
        return self.starts, self.columns, self.entries

    def masses(self) -> NDArray[np.float64]:
        """The sum of each row."""
        numbers = np.repeat(np.arange(self.shape[0]), np.diff(self.starts))
        return np.asarray(np.bincount(numbers, self.entries, self.shape[0]), np.float64)

    def weighted(self, masses: NDArray[np.float64], code: int) -> tuple[Any, ...]:
        """The parts with entries divided by the mass of their row, unless they are those of measures."""
        entries = self.entries.astype(np.float64)
        if code != ANY:
            entries /= np.repeat(masses, np.diff(self.starts))
        return self.starts, self.columns, entries

    def by_columns(self, masses: NDArray[np.float64], code: int) -> tuple[Any, ...]:
        """The same column by column: (starts of the columns, rows, entries)."""
        starts, columns, entries = self.weighted(masses, code)
        turned = sys.modules["scipy.sparse"].csr_array((entries, columns, starts), self.shape).tocsc()
        return turned.indptr.astype(np.int64), turned.indices.astype(np.int64), turned.data

    def dense(self, i: int) -> NDArray[Any]:
        """Row i with its zeros."""
        row = np.zeros((1, self.shape[1]), self.entries.dtype)
        stored = slice(self.starts[i], self.starts[i + 1])
        row[0, self.columns[stored]] = self.entries[stored]
        row.flags.writeable = False
        return row


def is_sparse(value: Any) -> bool:
    """Whether `value` is a sparse matrix or array of SciPy."""
    found = sys.modules.get("scipy.sparse")
    return found is not None and bool(found.issparse(value))


def _opened(name: str, value: Any, across: bool) -> Rows:
    """A two-dimensional argument, sparse or not, one distribution a row (a column, if `across`)."""
    package = sys.modules["scipy.sparse"]
    if not is_sparse(value):
        value = package.csr_array(np.atleast_2d(float_array(name, value)))
    elif across:
        value = value.T
    if value.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, not shape {value.shape}")
    if value.shape[1] == 0:
        raise ValueError(f"{name} is empty along the axis of the distributions: shape {value.shape}")
    rows = value.tocsr()
    if not rows.has_canonical_format:  # sorted, and no column twice
        rows = rows.copy()
        rows.sum_duplicates()
    entries = np.require(float_array(name, rows.data), requirements=["C", "A", "W"])
    starts, columns = (np.array(x, np.int64) for x in (rows.indptr, rows.indices))
    return Rows(starts, columns, entries, value.shape, value.dtype)


def open_pair(p: Any, q: Any, names: tuple[str, ...], axis: Any = -1) -> tuple[Rows, Rows]:
    """Two arguments, at least one of them sparse."""
    axes = axis_indices(axis, 2, "a sparse matrix")
    if len(axes) != 1:
        raise ValueError(f"axis of a sparse matrix must be one, not {axis!r}: give p.toarray()")
    across = axes == (-2,)
    a = _opened(names[0], p, across)
    b = a if q is p else _opened(names[-1], q, across)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{' and '.join(names)} must have distributions of one length: {a.shape[1]} and {b.shape[1]}"
        )
    kind = np.result_type(a.entries, b.entries)
    return a._replace(entries=a.entries.astype(kind, copy=False)), b._replace(
        entries=b.entries.astype(kind, copy=False)
    )


def sparse_values(
    values_of: Callable[[Pairing], NDArray[np.float64]],
    p: Rows,
    q: Rows,
    rows_p: NDArray[np.int64],
    rows_q: NDArray[np.int64],
) -> NDArray[np.float64]:
    """What `values_of` gives for each pair of rows, a batch of pairs at a time."""
    rows_p, rows_q = (np.ascontiguousarray(numbers, np.int64) for numbers in (rows_p, rows_q))
    stored = np.diff(p.starts)[rows_p] + np.diff(q.starts)[rows_q]
    width = max(1, int(stored.max(initial=1)))
    step = max(1, _BATCH // width)
    out = np.empty(rows_p.size)

    def batch(n: int) -> None:
        some = slice(n * step, (n + 1) * step)
        numbers = rows_p[some], rows_q[some]
        x, y = np.empty((2, numbers[0].size, width), p.entries.dtype)
        kernels.discrete.sparse.merge_rows(p.parts, q.parts, *numbers, x, y)
        x.flags.writeable = y.flags.writeable = False
        try:
            out[some] = values_of(_pairing(x, y, p, q, *numbers))
        except ValueError:
            for i, j in zip(*numbers, strict=True):  # names the entry that is wrong
                values_of(_pairing(p.dense(i), q.dense(j), p, q, np.array([i]), np.array([j])))
            raise

    threads.run(batch, -(-out.size // step))
    return out


def _pairing(
    x: NDArray[Any], y: NDArray[Any], p: Rows, q: Rows, rows_p: NDArray[Any], rows_q: NDArray[Any]
) -> Pairing:
    places = Place(rows_p, p.shape[:1], 0, p.kind), Place(rows_q, q.shape[:1], 0, q.kind)
    numbers = np.arange(len(x), dtype=np.intp)
    return Pairing(x, y, numbers, numbers, (len(x),), (-1,), x.shape[1:], places, (None, None))
