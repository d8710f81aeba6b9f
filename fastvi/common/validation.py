"""Checks of arguments, with their error messages.

For distributions in arrays the kernels notice invalid entries at no cost: their result is NaN, which no valid
input gives. `explain` then searches the arrays for the reason.
"""

from __future__ import annotations

import functools
import math
from collections import abc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..kernels.discrete.masses import (
    ANY,
    LARGEST_MASS,
    NORMALIZE,
    UNIT,
    UNIT_TOLERANCE32,
    UNIT_TOLERANCE64,
    WEIGHTS_TOLERANCE,
)
from ..kernels.discrete.registry import FINITE, Row
from ..kernels.numerics import half_precision

#: Largest asymmetry of a covariance, relative to its largest entry.
SYMMETRY_TOLERANCE = 1e-8

#: The same for float32: a product of matrices of a hundred rows leaves 6e-7.
SYMMETRY_TOLERANCE32 = 4e-6

#: The largest integer that kernels take.
_LARGEST_INTEGER = 2**63 - 1

#: The kernels' codes of the `mass` keyword.
MASSES = {"unit": UNIT, "normalize": NORMALIZE, "any": ANY}


#: Half-precision types, whose numbers are float32 numbers.
_HALVES = ("float16", "bfloat16")


def float_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as an aligned float32 or float64 array in native byte order, not copied where it is one."""
    if not isinstance(value, np.ndarray):
        _refuse_collection(name, value)
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked entries first")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from None
    dtype = array.dtype
    kind, size = dtype.kind, dtype.itemsize
    if kind == "f" and size in (4, 8):
        good = dtype.isnative and array.flags.aligned
        return array if good else array.astype(dtype.newbyteorder("="))
    if dtype.name in _HALVES:
        return singles_of(array, np.empty(array.shape, np.float32))
    if kind in "iub":
        return array.astype(np.float64)
    instead = f"np.asarray({name}, dtype=float)"
    if kind == "c":
        instead = f"{name}.real if the imaginary parts mean nothing"
    elif kind == "O" and array.ndim == 0:
        instead = "a list or an array"
    elif kind == "V" and dtype.names:
        instead = f"one of its fields, {name}[{dtype.names[0]!r}]"
    raise TypeError(
        f"{name} has dtype {dtype}: expected real numbers (float32, float64 or integers); give {instead}"
    )


def singles_of(array: NDArray[Any], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """An array of a half-precision type as float32, in `out`, which is contiguous."""
    if array.dtype == np.float16:
        bits = np.ascontiguousarray(array, np.float16).view(np.uint16).reshape(-1)
        bits.flags.writeable = False  # the kernel is compiled for read-only arrays
        half_precision.singles(bits, out.reshape(-1))
    else:
        out[...] = array
    return out


def _refuse_collection(name: str, value: Any) -> None:
    """Raise TypeError for what is no array, though it holds numbers, and say what to write instead."""
    kind = type(value).__name__
    if isinstance(value, abc.Mapping):
        instead = f"its values in an order that both arguments share, [{name}[k] for k in keys]"
    elif isinstance(value, str | bytes | bytearray):
        instead = "a list or an array of numbers"
    elif isinstance(value, abc.Set):
        instead = "a list or an array: a set has no order, and holds equal numbers once"
    elif isinstance(value, abc.Iterator | abc.ValuesView):
        instead = f"list({name})"
    elif callable(graph := getattr(value, "__dask_graph__", None)) and graph() is not None:
        instead = f"{name}.compute(): nothing is computed without being asked for"
    elif callable(getattr(value, "toarray", None)) and hasattr(value, "nnz"):
        instead = f"{name}.toarray()"
    else:
        return
    raise TypeError(f"{name} is a {kind}: give {instead}")


def mass_code(row: Row, mass: Any) -> int:
    """The kernels' code of a `mass` keyword, if the divergence of this row allows it."""
    try:
        code: int = MASSES[mass]
    except (KeyError, TypeError):
        raise ValueError(f"mass must be one of {', '.join(map(repr, MASSES))}, not {mass!r}") from None
    if code == ANY and not row.measures:
        raise ValueError(f"{row.name} compares distributions: mass must be 'unit' or 'normalize', not 'any'")
    return code


def log_unit(base: Any) -> float:
    """The number of nats in one unit of the logarithm to `base`."""
    if base is None:
        return 1.0
    value = real_number("base", base)
    if not 1.0 < value < math.inf:
        raise ValueError(f"base must be a finite number above 1, not {base!r}")
    return math.log(value)


def unit_of(row: Row, base: Any) -> float:
    """The unit of a divergence, in nats: log(base), or its square root for a distance that is a root."""
    if base is None:
        return 1.0
    if not row.base:
        raise ValueError(f"{row.name} is not a logarithm, so base has no meaning: got base={base!r}")
    return math.sqrt(log_unit(base)) if row.root else log_unit(base)


def order_of(row: Row, alpha: Any) -> float:
    """`alpha` as a float, if it is an order that the row allows."""
    order = real_number("alpha", alpha)
    low, high = row.orders or FINITE
    if not low <= order <= high:
        wanted = "finite" if (low, high) == FINITE else f">= {low:g}"
        if high < FINITE[1]:
            wanted += f" and <= {high:g}"
        raise ValueError(f"alpha must be {wanted}, not {alpha!r}")
    return order


def real_number(name: str, value: Any) -> float:
    """`value` as a float that is not NaN; a bool is no number, nor is a text."""
    if type(value) is not float and _is_no_number(value):
        raise TypeError(f"{name} must be a real number, not {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, not {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} is an integer beyond the floats") from None
    if math.isnan(number):
        raise ValueError(f"{name} is nan")
    return number


def integer(name: str, value: Any, least: int) -> int:
    """`value` as an int of at most 64 bits, if it is an integer of at least `least`; 2.0 is one, True is not.

    Kernels get it as a Python int: numba compiles a function anew for each other type of integer.
    """
    number = value if type(value) is int else None
    if number is None and not _is_no_number(value):
        with suppress(TypeError, ValueError, OverflowError):
            number = int(value)
    if number is None or number != value:
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if number > _LARGEST_INTEGER:
        raise ValueError(f"{name} must be at most {_LARGEST_INTEGER}, not {value!r}")
    return number


def _is_no_number(value: Any) -> bool:
    """Whether `int` and `float` take a value that is no real number, or fail in their own way.

    A bool, a text, a complex number of NumPy, an array with one entry, one that is masked.
    """
    if isinstance(value, np.ndarray):
        return value.ndim > 0 or value.dtype.kind in "bc" or isinstance(value, np.ma.MaskedArray)
    return isinstance(value, bool | np.bool_ | str | bytes | np.complexfloating)


def generator(name: str, value: Any) -> np.random.Generator:
    """The Generator of an `rng` argument: itself, or a new one from an integer or None.

    That is `numpy.random.default_rng`, but for bool, which is refused.
    """
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a numpy.random.Generator, an integer >= 0 or None, not {value!r}")
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{name} must be a numpy.random.Generator, an integer >= 0 or None, not {value!r}"
        ) from None


#: How far the sum of two weights may be from 1.
WEIGHT_PAIR_TOLERANCE = 1e-12


def weight_pair(weights: Any) -> tuple[float, float]:
    """Two positive weights that sum to one, as floats."""
    try:
        u, v = weights
    except (TypeError, ValueError):
        raise ValueError(f"weights must be two numbers, not {weights!r}") from None
    u, v = real_number("weights[0]", u), real_number("weights[1]", v)
    if not (u > 0.0 and v > 0.0 and abs(u + v - 1.0) <= WEIGHT_PAIR_TOLERANCE):
        raise ValueError(f"weights must be positive and sum to 1, not {weights!r}")
    return u, v


def axis_indices(axis: Any, ndim: int, shapes: str) -> tuple[int, ...]:
    """The axes of a keyword `axis`, None for all of them, in order and counted from the end."""
    if axis is None:
        return tuple(range(-ndim, 0))
    indices = set()
    for one in axis if isinstance(axis, tuple) else (axis,):
        try:
            index = int(one.__index__())
        except (AttributeError, TypeError):
            raise TypeError(f"axis must be an integer, a tuple of integers or None, not {axis!r}") from None
        if not -ndim <= index < ndim:
            raise ValueError(f"axis {one} is out of range for {shapes}")
        index -= ndim if index >= 0 else 0
        if index in indices:
            raise ValueError(f"axis {axis} names an axis twice: {shapes}")
        indices.add(index)
    if not indices:
        raise ValueError("axis is an empty tuple: a distribution needs an axis")
    return tuple(sorted(indices))


#: The rounding error of an entry of the types that are computed with as float32, relative and at least.
_ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0)}

#: Roundings of an entry that a unit sum allows for: a softmax has three, of exp, the sum and the quotient.
_ROUNDINGS = 4.0

#: What is taken off a tolerance where a row is summed a second time, as a share of it: the kernel that has
#: refused the row sums in another order.
_OTHER_ORDER = 1e-9


@functools.cache
def _name_of(dtype: Any) -> str:
    """The name of a type of NumPy or another library: finding it takes 5 µs."""
    return str(getattr(dtype, "name", dtype)).rpartition(".")[2]


def unit_tolerance(dtype: Any, n: int, log: bool = False) -> float:
    """The largest distance from one of the sum of `n` entries of a type with ``mass="unit"``.

    Logarithms have an absolute error that grows with their size, which is log n on average at most.
    """
    kind = _name_of(dtype)
    if kind in _ROUNDING:
        relative, least = _ROUNDING[kind]
        return (_ROUNDINGS + (math.log(n) if log else 0.0)) * relative + (0.0 if log else n * least)
    return float(UNIT_TOLERANCE32 if kind == "float32" else UNIT_TOLERANCE64)


def _first(bad: NDArray[np.bool_]) -> tuple[int, ...] | None:
    """The position of the first True, if there is one."""
    position = tuple(int(k) for k in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return position if bad[position] else None


def _clipped(name: str, value: float, largest: float) -> str:
    """What to do about a negative entry that is no more than rounding."""
    if not -UNIT_TOLERANCE64 * largest <= value < 0.0:
        return ""
    return f"; if that is rounding, clip it yourself: np.maximum({name}, 0)"


def _explain_row(
    name: str,
    row: NDArray[Any],
    where: Sequence[int],
    axes: Sequence[int],
    code: int,
    log: bool,
    tolerance: float,
) -> None:
    """Raise if this distribution is invalid; `where` is the index of its row without the axes."""

    def index(position: tuple[int, ...]) -> str:
        full = list(where)
        ndim = len(where) + len(axes)
        for axis, k in zip(axes, position, strict=True):
            full.insert(axis + ndim, k)
        return f"{name}[{', '.join(map(str, full))}]"

    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        bad = ~(row < math.inf) if log else ~((row >= 0.0) & (row < math.inf))
        k = _first(bad)
        if k is not None:
            wanted = "log-probabilities must be below +inf" if log else "must be finite and >= 0"
            hint = "" if log else _clipped(name, float(row[k]), float(np.fmax.reduce(row, axis=None)))
            raise ValueError(f"{index(k)} is {row[k]!s}: {wanted}{hint}")
        values = row.astype(np.float64)
        total = float(np.exp(values).sum() if log else values.sum())
    entries = f"exp({name})" if log else name
    place = f" in row {tuple(map(int, where))}" if len(where) else ""
    if not log and total > LARGEST_MASS:
        raise ValueError(f"{name} sums to {total!r}{place}: sums above {LARGEST_MASS:.0e} are not supported")
    if code == UNIT and not abs(total - 1.0) <= tolerance * (1.0 - _OTHER_ORDER):
        raise ValueError(
            f"{entries} sums to {total!r}{place}: mass='unit' wants 1 within {tolerance:.0e}; "
            "mass='normalize' divides by the sum, mass='any' compares measures"
        )
    if code == NORMALIZE and (not np.any(row > -math.inf) if log else total == 0.0):
        raise ValueError(f"{entries} sums to 0{place}: it cannot be normalised")


def explain(rows: Sequence[Any], axes: int | Sequence[int], code: int, log: bool) -> NoReturn:
    """Raise the error for distributions that a kernel has refused.

    Each is (name, row, index of the row), and the tolerance of a unit sum where it is not that of its type.
    """
    for name, row, where, *tolerance in rows:
        along = (axes,) if isinstance(axes, int) else axes
        allowed = tolerance[0] if tolerance else unit_tolerance(row.dtype, row.size, log)
        _explain_row(name, row, where, along, code, log, allowed)
    raise AssertionError("fastvi refused valid input; please report it with the arrays")


def finite_array(name: str, value: Any, ndim: int, wanted: str) -> NDArray[np.float64]:
    """A new C-contiguous float64 array of finite numbers with `ndim` dimensions; `wanted` names the shape."""
    array = np.array(float_array(name, value), dtype=np.float64, order="C")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have shape {wanted}, not {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} is empty: its shape is {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        raise ValueError(f"{name}[{', '.join(map(str, where))}] is {array[where]!s}: it must be finite")
    return array


def symmetry_tolerance(given: Any) -> float:
    """The asymmetry that rounding explains, for a covariance as the user gave it."""
    return SYMMETRY_TOLERANCE32 if float_array("cov", given).dtype == np.float32 else SYMMETRY_TOLERANCE


def cholesky_factor(
    name: str, cov: NDArray[np.float64], tolerance: float = SYMMETRY_TOLERANCE
) -> NDArray[np.float64]:
    """The lower Cholesky factor of a finite square matrix, if it is a covariance."""
    lower, upper = np.tril(cov, -1), np.triu(cov, 1).T
    gap = np.abs(lower - upper)
    if gap.max() > tolerance * np.abs(cov).max():
        i, j = (int(k) for k in np.unravel_index(np.argmax(gap), gap.shape))
        raise ValueError(
            f"{name} is not symmetric: [{i}, {j}] is {cov[i, j]!s} and [{j}, {i}] is {cov[j, i]!s}"
        )
    symmetric = 0.5 * (cov + cov.T)
    diagonal = np.diag(cov)
    if not (diagonal > 0.0).all():
        i = int(np.argmax(~(diagonal > 0.0)))
        raise ValueError(f"{name} is not positive definite: {name}[{i}, {i}] is {diagonal[i]!s}")
    try:
        # Scaled to a correlation matrix, so that units make no difference.
        scale = np.sqrt(diagonal)
        factor = np.linalg.cholesky(symmetric / scale[:, None] / scale) * scale[:, None]
    except np.linalg.LinAlgError:
        factor = np.zeros(0)
    if not factor.size or not (np.diag(factor) > 0.0).all():
        least = float(np.linalg.eigvalsh(symmetric)[0])
        raise ValueError(f"{name} is not positive definite: its smallest eigenvalue is {least!r}")
    return np.ascontiguousarray(factor)


def mean_and_factor(
    mean: Any, cov: Any, mean_name: str = "mean", cov_name: str = "cov"
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(mean, covariance, Cholesky factor) of a Gaussian."""
    location = finite_array(mean_name, np.atleast_1d(float_array(mean_name, mean)), 1, "(D,)")
    dim = location.size
    spread = finite_array(cov_name, np.atleast_2d(float_array(cov_name, cov)), 2, "(D, D)")
    if spread.shape != (dim, dim):
        raise ValueError(
            f"{cov_name} must have shape ({dim}, {dim}), as {mean_name} has {dim} entries, not {spread.shape}"
        )
    return location, spread, cholesky_factor(cov_name, spread, symmetry_tolerance(cov))


def mixture_weights(value: Any) -> NDArray[np.float64]:
    """Weights >= 0 that sum to one within `WEIGHTS_TOLERANCE`, divided by their sum."""
    weights = finite_array("weights", value, 1, "(K,)")
    if (weights < 0.0).any():
        k = int(np.argmax(weights < 0.0))
        raise ValueError(f"weights[{k}] is {weights[k]!s}: weights must be >= 0")
    total = float(weights.sum())
    if abs(total - 1.0) > WEIGHTS_TOLERANCE:
        raise ValueError(f"weights sum to {total!r}: they must sum to 1 within {WEIGHTS_TOLERANCE:.0e}")
    return weights / total


def increasing(name: str, value: Any) -> NDArray[np.float64]:
    """An array of at least three strictly increasing finite numbers."""
    points = finite_array(name, value, 1, "(n,)")
    if points.size < 3:
        raise ValueError(f"{name} must have at least 3 points, not {points.size}")
    steps = np.diff(points)
    if not (steps > 0.0).all():
        i = int(np.argmax(~(steps > 0.0)))
        raise ValueError(
            f"{name} is not increasing: {name}[{i + 1}] is {points[i + 1]!s} after {points[i]!s}"
        )
    return points


def same_dimension(p: Any, q: Any) -> None:
    """Raise ValueError if two distributions have different dimensions."""
    if p.dim != q.dim:
        raise ValueError(f"p and q must have the same dimension: p has {p.dim}, q has {q.dim}")


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value
