"""Models of functions that take a block of points: C functions by their addresses, and Python functions."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..common.validation import integer
from ..common.values import Array
from ..inference.foreign import ForeignModel, Names
from ..inference.lockstep import Evaluate, answered
from ..inference.model import Model
from ..inference.sharing import GRADIENTS, VALUE, Failures

#: Words of a table have 64 bits.
_LEAST_WORD = -(2**63)

#: Arrays at addresses that are kept: a fit passes blocks of a few sizes in a few buffers, again and again.
_VIEWS = 256


def from_address(
    value: int,
    slopes: int | None,
    dim: int | Mapping[str, Any],
    table: Sequence[int] = (),
    keep: Any = None,
) -> Model:
    r"""A model whose log joint is a C function, given by its address.

    The functions take a block of `count` points, the rows of `z`, and return 0; or the number, from 1, of the
    row where they failed::

        int64_t value(const double *z, int64_t count, int64_t dim, const double *theta, int64_t size,
                      const int64_t *table, double *out)
        int64_t slopes(const double *z, int64_t count, int64_t dim, const double *theta, int64_t size,
                       const int64_t *table, double *out, double *gradients)

    They write `count` values to `out`, and `slopes` also `count` rows of `dim` derivatives. `theta` has
    `size` = 0 entries. A value of -inf is a density of zero. The functions are called from the thread that
    calls fastvi, without the GIL. ``cfuncs.header()`` has their types, `fastvi_values` and `fastvi_slopes`.

    Parameters
    ----------
    value : int
        Address of the log joint.
    slopes : int or None
        Address of the log joint with its gradient; None: gradients are finite differences.
    dim : int or dict
        The number of coordinates, or names with supports and shapes, as for `Model`.
    table : sequence of int, optional
        Words that are handed to each call, such as addresses of data.
    keep : object, optional
        What must live as long as the model: the library, callbacks, arrays that the table points to.

    Returns
    -------
    Model
        It cannot be pickled, and has neither data nor theta of its own.

    Raises
    ------
    TypeError
        An address or a word of the table that is no integer.
    ValueError
        An address that is not positive, a word of more than 64 bits, a `dim` as for `Model`.

    Examples
    --------
    >>> import numba, numpy as np
    >>> import fastvi as fv
    >>> P, I = numba.types.CPointer(numba.types.float64), numba.types.int64
    >>> @numba.cfunc(I(P, I, I, P, I, numba.types.CPointer(I), P))
    ... def value(z, count, dim, theta, size, table, out):
    ...     for i in range(count):
    ...         out[i] = -0.5 * (z[i] - table[0]) ** 2
    ...     return 0
    >>> model = fv.from_address(value.address, None, 1, table=[3], keep=value)
    >>> model.log_density([1.0])
    -2.0
    """
    at, slopes_at = integer("value", value, 1), 0 if slopes is None else integer("slopes", slopes, 1)
    words = [integer(f"table[{k}]", word, _LEAST_WORD) for k, word in enumerate(table)]
    # Without words there is one that is unused, so that the table has an address.
    packed = np.array(words or [0], np.int64)
    return ForeignModel("from_address", at, slopes_at, dim, packed, keep)


def from_block(
    value_and_grad: Callable[[Array], tuple[Any, Any]] | None,
    value: Callable[[Array], Any] | None,
    dim: int | Mapping[str, Any],
) -> Model:
    r"""A model whose log joint is a Python function of a block of points: of torch, Dask, MPI, anything.

    Parameters
    ----------
    value_and_grad : callable or None
        Takes points (S, D), an array of its own, to the log joint at each and the gradients there: (S,) and
        (S, D), arrays or what ``numpy.asarray`` takes. None: gradients are finite differences.
    value : callable or None
        Takes points (S, D) to values (S,). None: those of `value_and_grad`.
    dim : int or dict
        The number of coordinates, or names with supports and shapes, as for `Model`.

    Returns
    -------
    Model
        It cannot be pickled, and has neither data nor theta of its own.

    Raises
    ------
    TypeError
        An argument that is not a function; two that are None.
    ValueError
        A `dim` as for `Model`.

    Notes
    -----
    An exception of the functions ends the call of fastvi and is raised as it is. Where the density is zero or
    not known they return -inf or NaN, which a fit can step back from. Results of another shape, or that are
    no real numbers, are a ValueError or TypeError of that call.

    A call may be a round trip to other processes, so a fit makes few calls of many points, in more than two
    dimensions with gradients alone: its searches, candidates and runners go on in step, one call for all. The
    functions are called from the thread that calls fastvi.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> def value(z):                                # (S, 3) -> (S,)
    ...     return -0.5 * ((z - 1.0) ** 2).sum(axis=1)
    >>> model = fv.from_block(lambda z: (value(z), 1.0 - z), value, 3)
    >>> fv.fit(model).q.mean.round(6)
    array([1., 1., 1.])
    """
    return block_model("from_block", value_and_grad, value, dim, expensive=True)


def block_model(
    origin: str,
    value_and_grad: Any,
    value: Any,
    dim: int | Mapping[str, Any] | Model,
    names: Names | None = None,
    expensive: bool = False,
) -> ForeignModel:
    """The model of `from_block`, with origin and names; `dim` and `expensive` are as for `ForeignModel`."""
    for name, function in (("value_and_grad", value_and_grad), ("value", value)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function or None, not {type(function).__name__}")
    if value is None and value_and_grad is None:
        raise TypeError("give value_and_grad, or value, or both")

    def evaluate(points: Array, slopes: bool) -> tuple[Array, Array | None]:
        count, gradients = len(points), None
        if slopes or value is None:
            found, gradients = pair_of(value_and_grad(points.copy()))
        else:
            found = value(points.copy())
        values = numbers_of("the values", found, (count,))
        return values, numbers_of("the gradients", gradients, points.shape) if slopes else None

    return evaluated_model(origin, evaluate, value_and_grad is not None, dim, names, expensive)


def evaluated_model(
    origin: str,
    evaluate: Evaluate,
    has_slopes: bool,
    dim: int | Mapping[str, Any] | Model,
    names: Names | None = None,
    expensive: bool = False,
) -> ForeignModel:
    """The model of a function that reads points, and returns values and gradients that need no check."""
    failures = Failures()
    # Only where calls are expensive other tasks may wait for the same call.
    ask = partial(answered, evaluate) if expensive else evaluate

    def write_values(z: int, count: int, dim: int, _t: int, _n: int, _w: int, out: int) -> int:
        if failures:
            return 1
        try:
            _block(out, count)[:], _ = ask(_block(z, count, dim), False)
        except BaseException as error:
            failures.hold(error)
            return 1
        return 0

    def write_slopes(z: int, count: int, dim: int, _t: int, _n: int, _w: int, out: int, slopes: int) -> int:
        if failures:
            return 1
        try:
            found = ask(_block(z, count, dim), True)
            _block(out, count)[:], _block(slopes, count, dim)[:] = found
        except BaseException as error:
            failures.hold(error)
            return 1
        return 0

    callbacks: list[Any] = [VALUE(write_values)]
    if has_slopes:
        callbacks.append(GRADIENTS(write_slopes))
    addresses = [int(ctypes.cast(callback, ctypes.c_void_p).value or 0) for callback in callbacks]
    at, slopes_at = addresses[0], addresses[1] if has_slopes else 0
    table = np.zeros(1, np.int64)
    return ForeignModel(origin, at, slopes_at, dim, table, callbacks, failures, names, expensive)


@lru_cache(maxsize=_VIEWS)
def _block(address: int, *shape: int) -> Array:
    """The array of this shape at an address: the same for each call with the same scratch space."""
    count = 1
    for extent in shape:
        count *= extent
    numbers: Array = np.frombuffer(memoryview((ctypes.c_double * count).from_address(address)), np.float64)
    return numbers.reshape(shape)


def pair_of(found: Any) -> tuple[Any, Any]:
    """What `value_and_grad` returns, checked to be two things."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"value_and_grad must return values and gradients, not {type(found).__name__}")
    return found[0], found[1]


def numbers_of(what: str, found: Any, shape: tuple[int, ...]) -> Array:
    """Results of a Python function as an array, checked."""
    array = np.asarray(found)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} of a block must be real numbers, not of dtype {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{what} of a block of {shape[0]} points must have shape {shape}, not {array.shape}")
    return array
