"""Data of a model as kernels read it: a row of 64-bit words, for one data set or for each of many.

A number is one word: the bits of a float, or the integer itself. An array is its address, then its shape. The
kernels unpack the row by the numba types of the data (`kernels.models.packing`), so data of the same types
compile nothing.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

#: Rows of words.
Table = NDArray[np.int64]

#: Numbers in the arrays of many data sets, on average, up to which they are copied one after another.
_SMALL = 4096


def _typed(name: str, value: Any) -> tuple[Any, Any]:
    """One item of data as (numba type, array or number)."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked entries first")
    if isinstance(value, bool | np.bool_):
        return types.boolean, bool(value)
    if isinstance(value, int | np.integer):
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} does not fit into an integer of 64 bits: give a float")
        return types.int64, int(value)
    if isinstance(value, float | np.floating):
        return types.float64, float(value)
    value = _as_array(name, value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return _typed(name, value.item())
    if isinstance(value, np.ndarray) and _is_known(value.dtype):
        if value.size == 0:
            raise ValueError(f"{name} is empty: its shape is {value.shape}")
        array = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="), copy=False))
        if not array.flags.aligned:
            array = array.copy()
        return _array_type(array.dtype, array.ndim), array
    raise TypeError(
        f"{name} must be a real number or a non-empty numeric array, not {type(value).__name__}"
        + (f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else "")
    )


@lru_cache(maxsize=128)
def _array_type(dtype: np.dtype[Any], ndim: int) -> Any:
    """numba's type of an array in C order; making it takes 6 µs, half of what an array takes to pack."""
    return types.Array(numba.from_dtype(dtype), ndim, "C")


def _as_array(name: str, value: Any) -> Any:
    """Lists, tuples and arrays of other libraries as an array; other values as they are."""
    if isinstance(value, list | tuple):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{name} is a {type(value).__name__} and no array: {error}") from error
    if isinstance(value, np.ndarray) or not (hasattr(value, "__array__") or hasattr(value, "__dlpack__")):
        return value
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} is a {type(value).__name__} and no array of numbers: {error}") from error


def _is_known(dtype: np.dtype[Any]) -> bool:
    """Whether numba compiles code for arrays of these numbers; it does not for half and long double."""
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))


def pack(data: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...], Table]:
    """(numba types, values, words) of one data set; the words point into the values, which must be kept."""
    kinds, values, words = [], [], []
    for k, item in enumerate(data):
        kind, value = _typed(f"data[{k}]", item)
        kinds.append(kind)
        values.append(value)
        if isinstance(kind, types.Array):
            words += [value.ctypes.data, *value.shape]
        elif kind is types.float64:
            words.append(int(np.float64(value).view(np.int64)))
        else:
            words.append(int(value))
    # Without data there is one unused word, so that the row has an address.
    return tuple(kinds), tuple(values), np.array(words or [0], np.int64)


def pack_tuples(
    kinds: tuple[Any, ...], blank: Table, datasets: Sequence[Any]
) -> tuple[Table, list[Any], list[int]]:
    """(table, values to keep, indices of the empty data sets) of a sequence of tuples of data.

    A data set with an empty array gets the row `blank`.
    """
    joined = _join(kinds, datasets)
    if joined is not None:
        return *joined, []
    rows, kept, empty = [], [], []
    for n, data in enumerate(datasets):
        if not isinstance(data, tuple):
            raise TypeError(f"datasets[{n}] must be a tuple of data, not {type(data).__name__}")
        if any(isinstance(item, abc.Sized) and np.asarray(item).size == 0 for item in data):
            empty.append(n)
            rows.append(blank)
            continue
        try:
            found, values, words = pack(data)
        except (TypeError, ValueError) as error:
            raise type(error)(f"datasets[{n}]: {error}") from None
        if found != kinds:
            raise TypeError(f"datasets[{n}] must have the types of the model's data {kinds}, not {found}")
        rows.append(words)
        kept.append(values)
    return (np.stack(rows) if rows else np.zeros((0, blank.size), np.int64)), kept, empty


def _join(kinds: tuple[Any, ...], datasets: Sequence[Any]) -> tuple[Table, list[Any]] | None:
    """(table, values to keep) where all data are floats and small arrays of just these types, else None.

    The arrays are copied one after another, item by item: 1 µs for each data set, where `pack` takes 11.
    """
    if not kinds or set(map(type, datasets)) != {tuple} or set(map(len, datasets)) != {len(kinds)}:
        return None
    columns: list[Table] = []
    kept: list[Any] = []
    for kind, items in zip(kinds, zip(*datasets, strict=True), strict=True):
        if kind is types.float64:
            if not set(map(type, items)) <= {float, np.float64}:
                return None
            columns.append(np.array(items, np.float64).view(np.int64))
            continue
        if not isinstance(kind, types.Array):
            return None
        dtype, ndim = np.dtype("bool" if kind.dtype is types.boolean else str(kind.dtype)), kind.ndim
        if set(map(type, items)) != {np.ndarray}:
            return None
        if {a.dtype for a in items} != {dtype} or {a.ndim for a in items} != {ndim}:
            return None
        if ndim == 1:
            shapes = np.fromiter(map(len, items), np.int64, len(items))[:, None]
        else:
            shapes = np.array([a.shape for a in items], np.int64)
        sizes = shapes.prod(axis=1)
        if not sizes.all() or sizes.sum() > _SMALL * len(items):
            return None
        values = np.concatenate(items if ndim == 1 else [a.ravel() for a in items])
        kept.append(values)
        columns.append(values.ctypes.data + (np.cumsum(sizes) - sizes) * dtype.itemsize)
        columns += list(shapes.T)
    return np.column_stack(columns), kept


def pack_arrays(kinds: tuple[Any, ...], datasets: tuple[Any, ...]) -> tuple[Table, list[Any], list[int]]:
    """(table, values to keep, indices of the empty data sets) of arrays with a leading batch axis."""
    arrays = [np.asarray(_as_array(f"datasets[{k}]", a)) for k, a in enumerate(datasets)]
    if len(arrays) != len(kinds):
        raise ValueError(
            f"datasets must have {len(kinds)} arrays, one for each item of data, not {len(arrays)}"
        )
    lengths = {a.shape[0] if a.ndim else -1 for a in arrays}
    if len(lengths) != 1 or -1 in lengths:
        shapes = ", ".join(str(a.shape) for a in arrays)
        raise ValueError(f"datasets must be arrays with one leading batch axis, not of shapes {shapes}")
    (count,) = lengths
    columns: list[Table] = []
    kept = []
    for k, (array, kind) in enumerate(zip(arrays, kinds, strict=True)):
        item = kind.dtype if isinstance(kind, types.Array) else kind
        ndim = kind.ndim if isinstance(kind, types.Array) else 0
        wanted = np.dtype("bool" if item is types.boolean else str(item))
        if array.ndim != ndim + 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"datasets[{k}] must have {ndim + 1} axes and numbers, as data[{k}] is {kind}, "
                f"not shape {array.shape} and dtype {array.dtype}"
            )
        if not np.can_cast(array.dtype, wanted):
            raise TypeError(
                f"datasets[{k}] must have numbers that fit into {wanted}, as data[{k}] is {kind}, "
                f"not dtype {array.dtype}"
            )
        values = np.require(array, wanted, ("C", "ALIGNED"))
        kept.append(values)
        if ndim == 0:
            columns.append(values.view(np.int64) if item is types.float64 else values.astype(np.int64))
            continue
        stride = values.strides[0] if count else 0
        columns.append(values.ctypes.data + np.arange(count, dtype=np.int64) * stride)
        columns += [np.full(count, extent, np.int64) for extent in values.shape[1:]]
    table = np.column_stack(columns) if columns else np.zeros((count, 1), np.int64)
    empty = list(range(count)) if any(array.size == 0 for array in arrays) else []
    return np.ascontiguousarray(table, dtype=np.int64), kept, empty


def most_entries(kinds: tuple[Any, ...], tables: Table) -> Table:
    """Entries of the largest array of each data set, by its words; 1 for numbers."""
    most, place = np.ones(len(tables), np.int64), 0
    for kind in kinds:
        if isinstance(kind, types.Array):
            np.maximum(most, tables[:, place + 1 : place + 1 + kind.ndim].prod(axis=1), out=most)
            place += kind.ndim
        place += 1
    return most
