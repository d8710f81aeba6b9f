r"""The kernels as C functions, for C, ctypes, SciPy and every language that can call a function pointer.

Each attribute is a `CFunction`: an ``address``, a ctypes function, and the declaration in C. It is compiled
on first use (a second or two; `fit_1d` twenty) and cached on disk. The functions need no GIL, hold no state
and may be called from any thread. They raise nothing: they return a `Status`, which is below 0 for invalid
input, where they write NaN.

Divergences of arrays have the names of the functions of `fastvi`; `mass` is a `Mass`, and the result is
written to `out`::

    int entropy(const double *p, int64_t n, int mass, double *out)
    int kl(const double *p, const double *q, int64_t n, int mass, double *out)
    int renyi(const double *p, const double *q, int64_t n, double alpha, int mass, double *out)
    int renyi_entropy(const double *p, int64_t n, double alpha, int mass, double *out)

Like `kl`: LIKE_KL.
Like `renyi`: LIKE_RENYI.

Of many distributions, row by row, with weights that sum to one; and of a table with `axes` axes of these
lengths, the last of which varies fastest::

    int js_many(const double *p, int64_t count, int64_t n, const double *weights, int mass, double *out)
    int mutual_information(const double *joint, const int64_t *lengths, int64_t axes, int mass, double *out)

The term of one entry of two measures (of the Hellinger distance: that of its square), NaN for an entry that
is negative or not finite::

    double kl_element(double p, double q)
    double alpha_divergence_element(double p, double q, double alpha)

Like `kl_element`: LIKE_ELEMENT.

Gaussians, given by means and lower Cholesky factors, row by row::

    int gaussian_kl(const double *mean_p, const double *chol_p, const double *mean_q, const double *chol_q,
                    int64_t dim, double *out)
    int gaussian_logpdf(const double *z, const double *mean, const double *chol, int64_t dim, double *out)

Integrands in the form that SciPy takes, of densities packed by `user_data`: `pdf` and `logpdf` of one
density, and `kl_integrand` = p log(p/q) - p + q of two::

    double pdf(int n, const double *z, void *packed)

A fit of a Gaussian to a log joint of one coordinate, a C function that is passed `data`. `support` is a
`Support`, with `low` and `high` where it has them. The start and the result are in the latent coordinate, in
which q is Gaussian: z, log(z - low), log(high - z), or the logit of (z - low) / (high - low). Mean 0 and
scale 1 are a usable start. `out` has one number for each `FitResult`. A log joint that fails must return NaN,
which ends the fit with a status; an exception is printed and ignored. As in Python the log joint is looked at
between and beyond the nodes as well (829 evaluations): beside a gap of zero density, and where it outgrows q,
the status says so, and the error is infinite. Where q has mass so near a bound of its support that floats do
not tell z from it, the error has what may be lost there, as in Python: `SATURATED` where that is large::

    double log_joint(const double *z, void *data)
    int fit_1d(fastvi_log_joint log_joint, void *data, int support, double low, double high,
               double start_mean, double start_scale, double rtol, double *out)

From ctypes, an array is ``numpy.ctypeslib.as_ctypes(array)``:

>>> import numpy as np
>>> from fastvi import cfuncs
>>> p, q, out = np.array([0.36, 0.48, 0.16]), np.array([0.30, 0.50, 0.20]), np.zeros(1)
>>> c = np.ctypeslib.as_ctypes
>>> cfuncs.kl.ctypes(c(p), c(q), 3, cfuncs.Mass.UNIT, c(out)), round(float(out[0]), 12)
(0, 0.010338234866)
>>> cfuncs.Status(cfuncs.kl.ctypes(c(2 * p), c(q), 3, cfuncs.Mass.UNIT, c(out))).name, float(out[0])
('INVALID', nan)

From SciPy, whose integration then calls no Python at its points:

>>> from scipy import LowLevelCallable, integrate
>>> import fastvi as fv
>>> p = fv.GaussianMixture([0.3, 0.7], [-1.0, 1.0], [1.0, 0.5])
>>> packed = cfuncs.user_data(p, fv.Gaussian(p.mean, p.cov))
>>> integrand = LowLevelCallable(cfuncs.kl_integrand.ctypes, packed)
>>> round(integrate.quad(integrand, -12.0, 12.0)[0], 9)       # KL of p from its M-projection
0.073645049

The log joint of a fit is the address of a function, such as that of numba's `cfunc`, or a ctypes callback:

>>> import math, numba
>>> @numba.cfunc("float64(CPointer(float64), voidptr)")
... def log_joint(z, data):                          # p(z) = exp(-z), p(x | z) = N(x | z, 1)
...     x = numba.carray(data, 1, np.float64)[0]
...     return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2 * math.pi)
>>> x, fit = np.array([2.0]), np.zeros(len(cfuncs.FitResult))
>>> cfuncs.fit_1d.ctypes(log_joint.address, x.ctypes.data, cfuncs.Support.REAL, 0, 0, 0, 1, 1e-8, c(fit))
0
>>> fit[[cfuncs.FitResult.MEAN, cfuncs.FitResult.DEVIATION, cfuncs.FitResult.ELBO]].round(9)
array([ 1. ,  1. , -1.5])

From C, with the types of all functions and the names of all numbers from `header`::

    python -c "from fastvi import cfuncs; print(cfuncs.header())" > fastvi.h

A library that Python calls is passed addresses. A program that embeds Python gets the functions by a macro of
the header, and can then call them from any thread until Python is finalised::

    #include <Python.h>
    #include "fastvi.h"

    int main(void)
    {
        const double p[] = {0.36, 0.48, 0.16}, q[] = {0.30, 0.50, 0.20};
        double out;
        Py_Initialize();
        fastvi_kl kl = FASTVI_GET(kl);               /* NULL, and a Python exception, where it fails */
        PyThreadState *state = PyEval_SaveThread();  /* lets go of the GIL */
        if (kl(p, q, 3, FASTVI_UNIT, &out) == FASTVI_FINE)
            printf("%.12f\n", out);
        PyEval_RestoreThread(state);
        return Py_FinalizeEx();
    }
"""

from __future__ import annotations

import ctypes
import inspect
import textwrap
import threading
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import numba
import numpy as np

from . import kernels
from .common.immutable import Immutable
from .distributions.gaussian import Gaussian
from .distributions.mixture import GaussianMixture
from .kernels import statuses as _statuses
from .kernels.discrete.registry import BY_TERM, METRICS

_definitions = kernels.c_functions


def _list(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(f"`{name}`" for name in names), 100)


_names_like = {
    "LIKE_KL": _list(name for name, row in METRICS.items() if name != "kl" and not row.orders),
    "LIKE_RENYI": _list(name for name, row in METRICS.items() if name != "renyi" and row.orders),
    "LIKE_ELEMENT": _list(
        f"{row.name}_element" for row in BY_TERM.values() if row.name != "kl" and not row.orders
    ),
}
if __doc__:  # not under python -OO
    for _mark, _names in _names_like.items():
        __doc__ = __doc__.replace(_mark, _names)


class Status(IntEnum):
    """What a function returns: below 0 for invalid input, above 0 for a fit that did not converge."""

    FINE = _statuses.FINE
    #: Entries that are negative or not finite, a sum that `mass` does not allow, an invalid Cholesky factor.
    INVALID = _statuses.INVALID
    #: A size, code or parameter out of its range.
    BAD_ARGUMENT = _statuses.BAD_ARGUMENT
    NO_MEMORY = _statuses.NO_MEMORY
    STEPS_EXHAUSTED = _statuses.STEPS_EXHAUSTED
    #: The quadrature does not reach the accuracy `rtol`.
    UNRESOLVED = _statuses.UNRESOLVED
    #: The Hessian of the ELBO is not negative definite.
    NOT_A_MAXIMUM = _statuses.NOT_A_MAXIMUM
    #: No step raises the ELBO further, but the gradient is not small.
    STUCK = _statuses.STUCK
    #: The mean or the deviation of q diverges: the posterior is improper.
    UNBOUNDED = _statuses.UNBOUNDED
    #: Converged, but the log density has other peaks or q is not close: another start may lead to a better q.
    UNCONFIRMED = _statuses.UNCONFIRMED
    #: The log joint is NaN, +inf or -inf where q has mass: at `FitResult.FAULT_AT`.
    NOT_A_NUMBER = _statuses.NOT_A_NUMBER
    INFINITE = _statuses.INFINITE
    ZERO = _statuses.ZERO
    #: Converged, but q has mass where z rounds to a bound of its support, and the error is above `rtol`.
    SATURATED = _statuses.SATURATED


class Mass(IntEnum):
    """What to do about sums other than 1, as in Python; not all functions take ANY."""

    UNIT = _definitions.UNIT
    NORMALIZE = _definitions.NORMALIZE
    ANY = _definitions.ANY


class Support(IntEnum):
    """The support of z in `fit_1d`: the real line, z > low, z < high, or low < z < high."""

    REAL = _definitions.REAL
    LOWER = _definitions.LOWER
    UPPER = _definitions.UPPER
    INTERVAL = _definitions.INTERVAL


class FitResult(IntEnum):
    """Places in the result of `fit_1d`. What is not known is NaN."""

    MEAN = _definitions.FIT_MEAN
    DEVIATION = _definitions.FIT_DEVIATION
    ELBO = _definitions.FIT_ELBO
    ERROR = _definitions.FIT_ERROR  #: of the ELBO
    GRADIENT_NORM = _definitions.FIT_GRADIENT_NORM
    EVALUATIONS = _definitions.FIT_EVALUATIONS
    STEPS = _definitions.FIT_STEPS
    FAULT_AT = _definitions.FIT_FAULT_AT  #: the z of a fault, in the coordinate of the log joint


class CFunction(Immutable):
    """A compiled C function.

    Attributes
    ----------
    name : str
    declaration : str
        In C.
    address : int
        In this process, for as long as it lives.
    ctypes : ctypes function
        The same with its types, called without the GIL. ``scipy.LowLevelCallable`` takes it.

    Examples
    --------
    >>> from fastvi import cfuncs
    >>> cfuncs.kl_element
    <C function double kl_element(double p, double q)>
    >>> cfuncs.kl_element.ctypes(0.5, 0.5)
    0.0
    """

    __slots__ = ("_compiled", "address", "ctypes", "declaration", "name")
    name: str
    declaration: str
    address: int
    ctypes: Any
    _compiled: Any

    def __init__(self, name: str, compiled: Any) -> None:
        fill = object.__setattr__
        fill(self, "name", name)
        fill(self, "declaration", _declaration(name))
        fill(self, "address", int(compiled.address))
        fill(self, "ctypes", compiled.ctypes)
        fill(self, "_compiled", compiled)

    def __reduce__(self) -> tuple[Any, ...]:
        # Addresses are those of this process.
        return _load, (self.name,)

    def __repr__(self) -> str:
        return f"<C function {self.declaration}>"


_lock = threading.Lock()
_loaded: dict[str, CFunction] = {}


def _load(name: str) -> CFunction:
    """The function of this name, made once and kept, so that its address stays valid."""
    with _lock:
        if name not in _loaded:
            if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
                raise RuntimeError("NUMBA_DISABLE_JIT is set: there are no compiled functions")
            _loaded[name] = CFunction(name, _definitions.make(name))
        return _loaded[name]


def __getattr__(name: str) -> CFunction:
    if name not in _definitions.FUNCTIONS:
        raise AttributeError(f"module 'fastvi.cfuncs' has no attribute {name!r}")
    return _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_definitions.FUNCTIONS})


# Declarations in C.

_TYPES = {
    _definitions.INT: "int ",
    _definitions.SIZE: "int64_t ",
    _definitions.DOUBLE: "double ",
    _definitions.NUMBERS: "const double *",
    _definitions.SIZES: "const int64_t *",
    _definitions.ANYTHING: "void *",
}


def _parameter(name: str, kind: Any) -> str:
    if name == "log_joint":
        return "fastvi_log_joint log_joint"
    return f"{'double *' if name == 'out' else _TYPES[kind]}{name}"


def _declaration(name: str, prefix: str = "", suffix: str = "") -> str:
    template, signature, _ = _definitions.FUNCTIONS[name]
    names = inspect.signature(template).parameters
    parameters = ", ".join(map(_parameter, names, signature.args))
    return f"{_TYPES[signature.return_type]}{prefix}{name}{suffix}({parameters})"


_HEADER = """\
/* The functions of fastvi {version}, by fastvi.cfuncs.header(); help("fastvi.cfuncs") explains them. */
#ifndef FASTVI_H
#define FASTVI_H

#include <stdint.h>

{constants}

/* The log joint of a fit, with the data that it was handed. */
typedef double (*fastvi_log_joint)(const double *z, void *data);

/* The log joint of a block of points, the `count` rows of z, for fastvi.from_address; and with its gradients.
   They return 0, or the number, from 1, of a row where they failed. size is 0; the table is the model's. */
typedef int64_t (*fastvi_values)(const double *z, int64_t count, int64_t dim, const double *theta,
                                 int64_t size, const int64_t *table, double *out);
typedef int64_t (*fastvi_slopes)(const double *z, int64_t count, int64_t dim, const double *theta,
                                 int64_t size, const int64_t *table, double *out, double *gradients);

/* Function pointers. Statuses are returned, numbers are written to out. */
{types}

#ifdef Py_PYTHON_H
/* FASTVI_GET(kl) is of type fastvi_kl: NULL, and a Python exception, where it fails. It needs the GIL. */
#define FASTVI_GET(name) ((fastvi_##name)fastvi_address(#name))

static inline void *fastvi_address(const char *name)
{{
    PyObject *module = PyImport_ImportModule("fastvi.cfuncs");
    PyObject *function = module ? PyObject_GetAttrString(module, name) : NULL;
    PyObject *number = function ? PyObject_GetAttrString(function, "address") : NULL;
    void *address = number ? PyLong_AsVoidPtr(number) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(function);
    Py_XDECREF(module);
    return address;
}}
#endif

#endif
"""


def _enumeration(comment: str, prefix: str, members: type[IntEnum]) -> str:
    lines = ",\n".join(f"    {prefix}{member.name} = {member.value}" for member in members)
    return f"/* {comment} */\nenum {{\n{lines}\n}};"


def header() -> str:
    """The text of a C header: the types of all functions, and the names of their numbers.

    Compiles nothing. Where ``Python.h`` is included before it, it also defines ``FASTVI_GET``.

    Examples
    --------
    >>> from fastvi import cfuncs
    >>> [line for line in cfuncs.header().splitlines() if "fastvi_kl)" in line]
    ['typedef int (*fastvi_kl)(const double *p, const double *q, int64_t n, int mass, double *out);']
    """
    from . import __version__

    constants = [
        _enumeration("What functions return: above 0, why a fit did not converge.", "FASTVI_", Status),
        _enumeration("What to do about sums other than 1.", "FASTVI_", Mass),
        _enumeration("Supports of fit_1d.", "FASTVI_", Support),
        _enumeration("Places in the result of fit_1d.", "FASTVI_FIT_", FitResult),
        f"#define FASTVI_FIT_SIZE {len(FitResult)}",
    ]
    types = [f"typedef {_declaration(name, '(*fastvi_', ')')};" for name in _definitions.FUNCTIONS]
    return _HEADER.format(version=__version__, constants="\n\n".join(constants), types="\n".join(types))


def user_data(*densities: Gaussian | GaussianMixture) -> ctypes.c_void_p:
    """Gaussians and mixtures as the last argument of an integrand, one after the other.

    For each, as doubles: the number of components K, of dimensions D, K log weights, K·D numbers of means,
    and K·D·D of lower Cholesky factors. The pointer keeps them alive, and so does a ``LowLevelCallable``
    that has it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastvi as fv
    >>> from fastvi import cfuncs
    >>> z = np.array([1.0, 2.0])
    >>> packed = cfuncs.user_data(fv.Gaussian([0.0, 0.0], np.eye(2)))
    >>> round(cfuncs.logpdf.ctypes(2, np.ctypeslib.as_ctypes(z), packed), 12)
    -4.337877066409
    """
    if not densities:
        raise TypeError("user_data takes one density or more")
    words: list[Any] = []
    for k, density in enumerate(densities):
        if not isinstance(density, Gaussian | GaussianMixture):
            raise TypeError(
                f"densities[{k}] must be a Gaussian or a GaussianMixture, not {type(density).__name__}"
            )
        if density.dim != densities[0].dim:
            raise ValueError(
                f"densities must have one dimension: densities[0] has {densities[0].dim}, "
                f"densities[{k}] has {density.dim}"
            )
        logs, means, factors = density._triple()
        words += [[logs.size, density.dim], logs, means.ravel(), factors.ravel()]
    pointer: ctypes.c_void_p = np.concatenate(words, dtype=np.float64).ctypes.data_as(ctypes.c_void_p)
    return pointer
