"""What counts as valid input, and what to say when it is not.

Arrays are looked at twice only when something is wrong: the kernels notice invalid input at no cost (their
result is NaN, which no valid input gives), and `explain` then finds out what to tell the user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .kernels.masses import (
    ANY,
    LARGEST_MASS,
    NORMALIZE,
    UNIT,
    UNIT_TOLERANCE32,
    UNIT_TOLERANCE64,
)

MASSES = {"unit": UNIT, "normalize": NORMALIZE, "any": ANY}


def float_array(name: str, value: Any) -> NDArray[Any]:
    """`value` as a float32 or float64 array in native byte order, not copied where it is one."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill or drop the masked entries first")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not an array of numbers: {error}") from None
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and size in (4, 8):
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if kind == "f" and size == 2:
        return array.astype(np.float32)
    if kind in "iub":
        return array.astype(np.float64)
    raise TypeError(f"{name} has dtype {array.dtype}: expected real numbers (float32, float64 or integers)")


def mass_code(mass: Any) -> int:
    """The number that the kernels know a `mass` keyword by."""
    try:
        return int(MASSES[mass])
    except (KeyError, TypeError):
        raise ValueError(f"mass must be one of {', '.join(map(repr, MASSES))}, not {mass!r}") from None


def log_unit(base: Any) -> float:
    """The number of nats in one unit of the logarithm to `base`."""
    if base is None:
        return 1.0
    value = real_number("base", base)
    if not 1.0 < value < math.inf:
        raise ValueError(f"base must be a finite number above 1, not {base!r}")
    return math.log(value)


def no_base(name: str, base: Any) -> None:
    """Raise if a base is given to a function without a logarithm."""
    if base is not None:
        raise ValueError(f"{name} is not a logarithm, so base has no meaning: got base={base!r}")


def real_number(name: str, value: Any) -> float:
    """`value` as a float that is not NaN."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, not {value!r}") from None
    if math.isnan(number):
        raise ValueError(f"{name} is nan")
    return number


def weight_pair(weights: Any) -> tuple[float, float]:
    """Two positive weights that sum to one."""
    try:
        u, v = weights
    except (TypeError, ValueError):
        raise ValueError(f"weights must be two numbers, not {weights!r}") from None
    u, v = real_number("weights[0]", u), real_number("weights[1]", v)
    if not (u > 0.0 and v > 0.0 and abs(u + v - 1.0) <= 1e-12):
        raise ValueError(f"weights must be positive and sum to 1, not {weights!r}")
    return u, v


def axis_index(axis: Any, ndim: int, shapes: str) -> int:
    """`axis` counted from the end, as a negative number."""
    try:
        index = int(axis.__index__())
    except (AttributeError, TypeError):
        raise TypeError(f"axis must be an integer, not {axis!r}") from None
    if not -ndim <= index < ndim:
        raise ValueError(f"axis {axis} is out of range for {shapes}")
    return index if index < 0 else index - ndim


def unit_tolerance(dtype: np.dtype[Any]) -> float:
    """How far a sum may be from one with ``mass="unit"``."""
    return float(UNIT_TOLERANCE32 if dtype.itemsize == 4 else UNIT_TOLERANCE64)


def _first(bad: NDArray[np.bool_]) -> int | None:
    position = int(np.argmax(bad))
    return position if bad[position] else None


def _explain_row(name: str, row: NDArray[Any], where: Sequence[int], axis: int, code: int, log: bool) -> None:
    """Raise if this distribution is invalid; `where` is the index of its row without the axis."""

    def index(k: int) -> str:
        full = list(where)
        full.insert(len(full) + 1 + axis, k)
        return f"{name}[{', '.join(map(str, full))}]"

    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        bad = ~(row < math.inf) if log else ~((row >= 0.0) & (row < math.inf))
        k = _first(bad)
        if k is not None:
            wanted = "log-probabilities must be below +inf" if log else "must be finite and >= 0"
            raise ValueError(f"{index(k)} is {row[k]!s}: {wanted}")
        values = row.astype(np.float64)
        total = float(np.exp(values).sum() if log else values.sum())
    entries = f"exp({name})" if log else name
    place = f" in row {tuple(map(int, where))}" if len(where) else ""
    if not log and total > LARGEST_MASS:
        raise ValueError(f"{name} sums to {total!r}{place}: sums above {LARGEST_MASS:.0e} are not supported")
    tolerance = unit_tolerance(row.dtype)
    if code == UNIT and not abs(total - 1.0) <= tolerance:
        raise ValueError(
            f"{entries} sums to {total!r}{place}: mass='unit' wants 1 within {tolerance:.0e}; "
            "mass='normalize' divides by the sum, mass='any' compares measures"
        )
    if code == NORMALIZE and (not np.any(row > -math.inf) if log else total == 0.0):
        raise ValueError(f"{entries} sums to 0{place}: it cannot be normalised")


def explain(
    rows: Sequence[tuple[str, NDArray[Any], Sequence[int]]], axis: int, code: int, log: bool
) -> NoReturn:
    """Raise the error for distributions that a kernel has refused: (name, row, index of the row)."""
    for name, row, where in rows:
        _explain_row(name, row, where, axis, code, log)
    raise AssertionError("fastvi refused valid input; please report it with the arrays")
