"""Types of arrays, and how the classes of the API take, show and compare them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import float_array

Array = NDArray[np.float64]

#: A mixture as the kernels take it: log weights (K,), means (K, D), Cholesky factors (K, D, D).
Triple = tuple[Array, Array, Array]

#: Entries of a level that `tidy` shows in full; of more, the first of these and the last: 8 numbers of six
#: digits fill a line.
_MOST_SHOWN, _SHOWN_OF_MANY = 8, 3


def hashable(array: Array) -> bytes:
    """The bytes of an array, for its hash; -0.0, which is equal to 0.0, has the bytes of 0.0."""
    return (array + 0.0).tobytes()


def as_points(z: ArrayLike, dim: int) -> tuple[Array, tuple[int, ...]]:
    """(points as rows (N, D), shape of the values at them) of an argument of shape (..., D)."""
    array = float_array("z", z)
    if array.ndim == 0 and dim == 1:
        array = array.reshape(1)
    if array.ndim == 0 or array.shape[-1] != dim:
        raise ValueError(f"z must have shape (..., {dim}), not {array.shape}")
    return np.array(array, dtype=np.float64, order="C").reshape(-1, dim), array.shape[:-1]


def in_shape(values: Array, shape: tuple[int, ...]) -> Any:
    """The values in this shape; a float where it is that of one number."""
    return values.reshape(shape) if shape else float(values[0])


def tidy(values: Any) -> str:
    """An array as nested lists with six significant digits, cut short where a level has many entries."""
    array = np.asarray(values)
    if array.ndim == 0:
        return f"{float(array):.6g}"
    entries = [tidy(entry) for entry in array]
    if len(entries) > _MOST_SHOWN:
        entries = [*entries[:_SHOWN_OF_MANY], "...", *entries[-1:]]
    return f"[{', '.join(entries)}]"
