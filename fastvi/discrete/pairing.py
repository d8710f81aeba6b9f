"""Arguments of any shape as pairs of rows for the kernels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..common.validation import axis_indices, explain, float_array, unit_tolerance

_Shape = tuple[int, ...]


class Place(NamedTuple):
    """Where the rows of an argument come from."""

    numbers: NDArray[np.intp]  #: the row of each pair
    shape: _Shape  #: of the argument without the axes of the distributions
    added: int  #: leading axes of length one that the argument did not have
    kind: Any  #: the type of its entries, which says how far a sum may be from one


class Pairing(NamedTuple):
    """Distributions as rows; pair k is row rows_p[k] of `p` and row rows_q[k] of `q`."""

    p: NDArray[Any]
    q: NDArray[Any]
    rows_p: NDArray[np.intp]
    rows_q: NDArray[np.intp]
    shape: _Shape  #: of the result
    axes: _Shape  #: of the distributions, in order, counted from the end
    lengths: _Shape  #: along these axes
    places: tuple[Place, Place]
    masks: tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]  #: the masked entries of p and q


def _opened(name: str, value: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """An argument as an array of floats, and its mask if it has masked entries."""
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        return float_array(name, np.ma.getdata(value)), mask if mask.any() else None
    return float_array(name, value), None


def _as_rows(array: NDArray[Any], ndim: int, axes: _Shape, dtype: Any) -> tuple[NDArray[Any], _Shape, _Shape]:
    """A read-only C-contiguous (rows, n) array, copied if need be; the shapes without and along `axes`.

    Read-only, because numba compiles a kernel once more for writable arrays.
    """
    count = len(axes)
    moved = array if array.ndim == ndim else array.reshape((1,) * (ndim - array.ndim) + array.shape)
    if axes != (-1,):
        moved = np.moveaxis(moved, axes, range(-count, 0))
    lead, lengths = moved.shape[:-count], moved.shape[-count:]
    rows = np.ascontiguousarray(moved, dtype=dtype).reshape(math.prod(lead), math.prod(lengths)).view()
    rows.flags.writeable = False
    return rows, lead, lengths


def _row_numbers(shape: _Shape, broadcast: _Shape) -> NDArray[np.intp]:
    numbers = np.arange(math.prod(shape), dtype=np.intp)
    if shape == broadcast:
        return numbers
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(shape), broadcast)).reshape(-1)


def pair_up(p: ArrayLike, q: ArrayLike, axis: Any, names: tuple[str, ...] = ("p", "q")) -> Pairing:
    """Two arguments as pairs of rows along `axis`, some axes or None for all of them, broadcast."""
    a, mask_a = _opened(names[0], p)
    b, mask_b = (a, mask_a) if q is p else _opened(names[-1], q)
    shapes = (
        f"shape {a.shape} of {names[0]}" if len(names) == 1 else f"shapes {a.shape} of p and {b.shape} of q"
    )
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"{' and '.join(names)} must have at least one dimension: {shapes}")
    ndim = max(a.ndim, b.ndim)
    axes = axis_indices(axis, ndim, shapes)
    dtype = np.result_type(a, b)
    rows_p, lead_p, lengths = _as_rows(a, ndim, axes, dtype)
    rows_q, lead_q, lengths_q = (rows_p, lead_p, lengths) if q is p else _as_rows(b, ndim, axes, dtype)
    if lengths != lengths_q:
        raise ValueError(f"p and q must have the same length along axis {axis}: {shapes}")
    if 0 in lengths:
        raise ValueError(f"empty along axis {axis}: {shapes}")
    try:
        lead = lead_p if lead_p == lead_q else np.broadcast_shapes(lead_p, lead_q)
    except ValueError:
        raise ValueError(f"p and q do not broadcast along the axes other than {axis}: {shapes}") from None
    numbers_p = _row_numbers(lead_p, lead)
    numbers_q = numbers_p if lead_p == lead_q else _row_numbers(lead_q, lead)
    places = (
        Place(numbers_p, lead_p, ndim - a.ndim, getattr(p, "dtype", a.dtype)),
        Place(numbers_q, lead_q, ndim - b.ndim, getattr(q, "dtype", b.dtype)),
    )
    masks = (
        None if mask_a is None else _as_rows(mask_a, ndim, axes, bool)[0],
        None if mask_b is None else _as_rows(mask_b, ndim, axes, bool)[0],
    )
    return Pairing(rows_p, rows_q, numbers_p, numbers_q, lead, axes, lengths, places, masks)


def _position(k: int, place: Place, axes: _Shape) -> _Shape:
    """The index in its argument, without the axes of the distributions, of a row of pair `k`."""
    if not place.shape:
        return ()
    index = np.unravel_index(int(place.numbers[k]), place.shape)
    ndim = len(place.shape) + len(axes)
    added = sum(i - ndim not in axes for i in range(place.added))
    return tuple(int(i) for i in index)[added:]


def raise_for_pair(
    pair: Pairing, k: int, code: int, log: bool, names: tuple[str, ...], allowed: tuple[bool, bool]
) -> None:
    """Raise the error for pair `k`, which a kernel has refused, not for that of the two that is `allowed`."""
    rows = pair.p[pair.rows_p[k]], pair.q[pair.rows_q[k]]
    found = [
        (
            name,
            row.reshape(pair.lengths),
            _position(k, place, pair.axes),
            unit_tolerance(place.kind, row.size, log),
        )
        for name, row, place, fine in zip(names, rows, pair.places, allowed, strict=False)
        if not fine
    ]
    explain(found, pair.axes, code, log)


def shaped(values: NDArray[np.float64], pair: Pairing, keepdims: bool) -> Any:
    """One value for each pair, in the shape of the arguments without the axes."""
    result = values.reshape(pair.shape)
    if keepdims:
        return np.expand_dims(result, pair.axes)
    return result if pair.shape else float(result)
