"""Text that docstrings of divergences share: `documented` puts it in place of lines such as ``%(axis)s``."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from typing import TypeVar

from ..kernels.discrete.registry import METRICS, ROWS, Row

_Function = TypeVar("_Function", bound=Callable[..., object])

_TEXTS = {
    "p": """\
p : array_like
    Probabilities. A distribution lies along `axis`. Floats of 16 to 64 bits (also bfloat16) or integers;
    float32 is summed in float64. A DataFrame gives a Series, a DataArray a DataArray, a Dask array a Dask
    array. Sparse matrices of SciPy are computed from their non-zeros. Masked entries are omitted.""",
    "p_q": """\
p, q : array_like
    Probabilities. A distribution lies along `axis`; the other axes broadcast (without a copy). Floats of
    16 to 64 bits (also bfloat16) or integers; float32 is summed in float64.
    Series and DataFrames are matched by their labels: in another order they are put into that of `p`,
    other labels are an error. A Series beside a DataFrame is one distribution, along `axis`; a DataFrame
    gives a Series, with the labels of its distributions. DataArrays are matched by the names of their
    dimensions and by labels. A Dask array gives a Dask array, and nothing is computed yet. Sparse matrices
    of SciPy are computed from their non-zeros.
    Entries that are masked in p or q are omitted from both.""",
    "axis": """\
axis : int, tuple of int or None, optional
    The axis of the distributions, counted in the array with more dimensions. Default: the last. Several
    axes, or all for None: a distribution over their cells, such as a histogram in two dimensions.
dim : str or tuple of str, optional
    The name of the axis, of one or two `xarray.DataArray`.""",
    "base": """\
base : float, optional
    Base of the logarithm, above 1. Default: e, for a result in nats.""",
    "no_base": """\
base : None
    There is no logarithm in it: anything but None is an error.""",
    "mass": """\
mass : {"unit", "normalize", "any"}, optional
    What to do about sums other than 1. "unit": they are an error beyond rounding (1e-6; 1e-3 for
    float32; 2e-3 for float16 and 1.6e-2 for bfloat16, and more for many entries), and rounding is
    divided out. "normalize": divide by the sum. "any": the arrays are measures, and nothing is divided
    by.""",
    "mass_of_distributions": """\
mass : {"unit", "normalize"}, optional
    What to do about sums other than 1. "unit": they are an error beyond rounding (1e-6; 1e-3 for
    float32; 2e-3 for float16 and 1.6e-2 for bfloat16, and more for many entries), and rounding is
    divided out. "normalize": divide by the sum. "any" is an error: for measures the formula depends on
    the masses and can be negative.""",
    "log_keepdims": """\
log : bool, optional
    Whether the arrays hold natural logarithms of probabilities; -inf is welcome.
keepdims : bool, optional
    Whether `axis` stays in the result with length one.""",
    "nan_policy": """\
nan_policy : {"raise", "propagate", "omit"}, optional
    What to do about NaN. "raise": it is an error. "propagate": a distribution with a NaN, or with nothing
    to normalise, has the result NaN. "omit": an entry that is NaN in p or q is left out of both, as if it
    were masked; a distribution with no entries left has the result NaN.""",
    "returned": """\
A float if there is one distribution on each side (and not `keepdims`), else a float64 array of the
broadcast shape without `axis`, or what the arguments are, with their labels.""",
    "raises": """\
ValueError
    Negative, infinite or NaN entries (the first is named), sums that `mass` does not allow, an empty
    axis, shapes that do not broadcast, labels that do not match, an unknown keyword value, a parameter
    out of its range.
TypeError
    Arrays that do not hold real numbers, a parameter that is no real number.""",
}


def _names(rows: Iterable[Row]) -> str:
    return textwrap.fill(", ".join(f'"{row.name}"' for row in rows), 100)


_TEXTS["metrics"] = _names(METRICS.values())
_TEXTS["metrics_of_order"] = _names(row for row in METRICS.values() if row.orders)
_TEXTS["metrics_of_distributions"] = _names(row for row in METRICS.values() if not row.measures)
_TEXTS["metrics_with_base"] = _names(row for row in METRICS.values() if row.base)


def _keywords(name: str) -> str:
    row = ROWS[name]
    kinds = ("axis", "base" if row.base else "no_base", "mass" if row.measures else "mass_of_distributions")
    return "\n".join(_TEXTS[kind] for kind in (*kinds, "log_keepdims", "nan_policy"))


def documented(function: _Function) -> _Function:
    """`function` with the shared texts in its docstring; ``%(keywords)s`` depends on its registry row."""
    if function.__doc__:  # not under python -OO
        texts = dict(_TEXTS)
        if function.__name__ in ROWS:
            texts["keywords"] = _keywords(function.__name__)
        lines = []
        for line in function.__doc__.splitlines():
            filled = line.lstrip() % texts
            lines.append(textwrap.indent(filled, line[: len(line) - len(line.lstrip())]))
        function.__doc__ = "\n".join(lines)
    return function
