"""Arrays with labels (pandas, xarray) and arrays that are computed later (Dask), as the arrays they hold.

Entries are matched by their labels, dimensions by their names, and the result gets the labels of the
arguments. None of these packages is imported: an argument of theirs shows that they have been.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..common.validation import axis_indices

#: (p, q, axis, keepdims) -> result, of plain arrays
Compute = Callable[[Any, Any, Any, bool], Any]


#: What has no labels for certain.
_UNLABELLED = frozenset({np.ndarray, list, tuple})


def _is(value: Any, module: str, *classes: str) -> bool:
    """Whether `value` is an instance of one of these classes, of a package that may not be there."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, tuple(getattr(found, name) for name in classes))


def is_pandas(value: Any) -> bool:
    """Whether `value` is a Series or a DataFrame."""
    return _is(value, "pandas", "Series", "DataFrame")


def is_xarray(value: Any) -> bool:
    """Whether `value` is a DataArray."""
    return _is(value, "xarray", "DataArray")


def is_dask(value: Any) -> bool:
    """Whether `value` is a Dask array."""
    return _is(value, "dask.array", "Array")


def unlabelled(compute: Compute, p: Any, q: Any, axis: Any, dim: Any, keepdims: bool) -> Any:
    """The result of `compute` for the arrays in p and q (the same object, if there is one only), labelled."""
    if dim is None and type(p) in _UNLABELLED and type(q) in _UNLABELLED:
        return compute(p, q, axis, keepdims)
    if is_xarray(p) or is_xarray(q):
        return _of_xarray(compute, p, q, axis, dim, keepdims)
    if dim is not None:
        raise TypeError(f"dim={dim!r} names a dimension of xarray.DataArray: for other arrays give axis")
    if is_dask(p) or is_dask(q):
        return _of_dask(compute, p, q, axis, keepdims)
    if is_pandas(p) or is_pandas(q):
        return _of_pandas(compute, p, q, axis, keepdims)
    return compute(p, q, axis, keepdims)


def _some(labels: Any) -> str:
    shown = [repr(label) for label in labels[:3].tolist()]
    return ", ".join(shown) + (", ..." if len(labels) > 3 else "")


def _order(index_p: Any, index_q: Any, along: str, names: tuple[str, str] = ("p", "q")) -> Any:
    """The positions in q of the labels of p; None if both have them in the same order."""
    if index_p.equals(index_q):
        return None
    both = " and ".join(names)
    only = index_p.difference(index_q, sort=False), index_q.difference(index_p, sort=False)
    found = [
        f"{_some(labels)} only in {name}" for name, labels in zip(names, only, strict=True) if len(labels)
    ]
    if found:
        raise ValueError(f"{both} have different labels along {along}: {', '.join(found)}")
    if not (index_p.is_unique and index_q.is_unique):
        raise ValueError(f"{both} have their labels along {along} in another order, and some of them repeat")
    return index_q.get_indexer(index_p)


# pandas


def _entries(table: Any) -> Any:
    """The entries of a Series or a DataFrame as an array; what a nullable type has not got is NaN."""
    kinds = list(table.dtypes) if table.ndim == 2 else [table.dtype]
    if any(hasattr(kind, "na_value") for kind in kinds) and all(kind.kind in "fiub" for kind in kinds):
        common = np.result_type(*(getattr(kind, "numpy_dtype", kind) for kind in kinds))
        return table.to_numpy(dtype=common if common.kind == "f" else np.float64, na_value=np.nan)
    return table.to_numpy()


def _one_axis(axis: Any) -> int:
    """The axis of the distributions in a DataFrame: -1 where each row is one, -2 where each column is."""
    axes = axis_indices(axis, 2, "a DataFrame and a Series")
    if len(axes) > 1:
        raise ValueError(
            "of a DataFrame and a Series, axis must be one: the labels of the Series belong to it"
        )
    return axes[0]


def aligned(p: Any, q: Any, axis: Any) -> tuple[Any, Any]:
    """The arrays in p and q, where q has the order of the labels of p; a Series lies along `axis`."""
    a, b = (_entries(x) if is_pandas(x) else x for x in (p, q))
    if q is p:
        return a, a
    if not (is_pandas(p) and is_pandas(q)):
        return a, b
    if p.ndim == q.ndim:
        for k, along in enumerate(("the index", "the columns")[: p.ndim]):
            order = _order(p.axes[k], q.axes[k], along)
            b = b if order is None else np.take(b, order, axis=k)
        return a, b
    k = _one_axis(axis)
    along = "the columns" if k == -1 else "the index"
    if p.ndim == 2:
        order = _order(p.axes[k], q.index, along)
        b = b if order is None else b[order]
        return a, b if k == -1 else b[:, None]
    order = _order(p.index, q.axes[k], along)
    b = b if order is None else np.take(b, order, axis=k)
    return a if k == -1 else a[:, None], b


def _of_pandas(compute: Compute, p: Any, q: Any, axis: Any, keepdims: bool) -> Any:
    result = compute(*aligned(p, q, axis), axis, keepdims)
    frame = next((x for x in (p, q) if is_pandas(x) and x.ndim == 2), None)
    if frame is None or np.ndim(result) != 1 or max(np.ndim(p), np.ndim(q)) > 2:
        return result
    labels = frame.axes[0 if _one_axis(axis) == -1 else 1]
    return sys.modules["pandas"].Series(result, labels) if len(labels) == len(result) else result


# xarray


def _of_xarray(compute: Compute, p: Any, q: Any, axis: Any, dim: Any, keepdims: bool) -> Any:
    if keepdims:
        raise ValueError(
            "keepdims is for arrays whose axes have no names: expand_dims of the result adds one"
        )
    if is_pandas(p) or is_pandas(q):
        raise TypeError("p and q are a DataArray and a table of pandas: give both as one of them")
    leader = max((x for x in (p, q) if is_xarray(x)), key=lambda x: x.ndim)
    if dim is None:
        axes = axis_indices(axis, leader.ndim, f"shape {leader.shape}")
        dims = tuple(leader.dims[k] for k in axes)
    elif axis != -1:
        raise ValueError(f"dim={dim!r} and axis={axis!r} name the same thing: give one of them")
    else:
        dims = leader.dims if dim is ... else tuple(dim) if isinstance(dim, list | tuple) else (dim,)
    if len(dims) == 0 or len(set(dims)) < len(dims):
        raise ValueError(f"dim must be one dimension or several different ones, not {dim!r}")
    for name, x in (("p", p), ("q", q)):
        if not is_xarray(x):
            if np.ndim(x) != len(dims):
                raise ValueError(f"{name} is no DataArray, so its axes must be those of {dims} and no others")
            continue
        for one in dims:
            if one not in x.dims:
                raise ValueError(f"{name} has no dimension {one!r}, but {x.dims}")
    arrays = [p]
    if q is not p:
        if is_xarray(p) and is_xarray(q):
            for one in set(p.indexes) & set(q.indexes) & set(p.dims) & set(q.dims):
                order = _order(p.indexes[one], q.indexes[one], repr(one))
                q = q if order is None else q.isel({one: order})
        arrays.append(q)
    return sys.modules["xarray"].apply_ufunc(
        _of_last_axes(compute, len(dims)),
        *arrays,
        input_core_dims=[list(dims)] * len(arrays),
        join="exact",
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )


def _of_last_axes(compute: Compute, count: int) -> Callable[..., Any]:
    """`compute` for distributions along the last axes of one or two arrays; the result is always an array."""
    axes = tuple(range(-count, 0))
    return lambda *arrays: np.asarray(compute(arrays[0], arrays[-1], axes, False))


# Dask


def _of_dask(compute: Compute, p: Any, q: Any, axis: Any, keepdims: bool) -> Any:
    dask = sys.modules["dask.array"]
    ndim = max(np.ndim(p), np.ndim(q))
    axes = axis_indices(axis, ndim, f"shapes {np.shape(p)} of p and {np.shape(q)} of q")
    arrays = []
    for x in (p,) if q is p else (p, q):
        x = dask.asarray(x)
        x = x[(None,) * (ndim - x.ndim) + (...,)]
        arrays.append(dask.moveaxis(x, axes, tuple(range(-len(axes), 0))))
    core = "(" + ",".join(f"k{i}" for i in range(len(axes))) + ")"
    result = dask.apply_gufunc(
        _of_last_axes(compute, len(axes)),
        ",".join([core] * len(arrays)) + "->()",
        *arrays,
        output_dtypes=np.float64,
        allow_rechunk=True,
    )
    return dask.expand_dims(result, axes) if keepdims else result


# All pairs of rows


def matched_rows(P: Any, Q: Any) -> tuple[Any, Any]:
    """Tables of one distribution a row, those of `Q` with the order of the columns of `P`."""
    if Q is None or Q is P:
        return P, Q
    if is_pandas(P) and is_pandas(Q) and P.ndim == Q.ndim == 2:
        order = _order(P.columns, Q.columns, "the columns", ("P", "Q"))
        b = _entries(Q)
        return _entries(P), b if order is None else b[:, order]
    if is_xarray(P) and is_xarray(Q) and P.ndim == Q.ndim == 2:
        last = P.dims[-1]
        if last not in Q.dims:
            raise ValueError(f"Q has no dimension {last!r}, but {Q.dims}")
        Q = Q.transpose(..., last)
        if last in P.indexes and last in Q.indexes:
            order = _order(P.indexes[last], Q.indexes[last], repr(last), ("P", "Q"))
            Q = Q if order is None else Q.isel({last: order})
    return P, Q


def pairs_of_dask(compute: Callable[[Any, Any], Any], P: Any, Q: Any) -> Any:
    """The Dask array of `compute` for all pairs of rows, a block of rows by a block of rows."""
    dask = sys.modules["dask.array"]
    p = dask.asarray(P)
    q = p if Q is None else dask.asarray(Q)
    if p.ndim != 2 or q.ndim != 2 or p.shape[1] != q.shape[1]:
        raise ValueError(f"P and Q must be tables with rows of one length: shapes {p.shape} and {q.shape}")
    p, q = p.rechunk({1: -1}), q.rechunk({1: -1})
    return dask.blockwise(compute, "ij", p, "ik", q, "jk", concatenate=True, meta=np.empty((0, 0)))
