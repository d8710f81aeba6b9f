"""Kernels as C functions: pointers and numbers in, a number or a status out. Used by `fastvi.cfuncs`.

`FUNCTIONS` defines them, those of the divergences by the rows of the registry; `make` compiles one. They may
be called from any thread, hold no state, and raise nothing: numba would print an exception and ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import carray, types

from .compiler import exported_to_c, inlined, specialise
from .densities import gaussians, mixtures
from .discrete import dependence, terms
from .discrete.divergences import KERNELS
from .discrete.logarithmic import kl_log_term
from .discrete.masses import ANY, LARGEST_MASS, NORMALIZE, UNIT, WEIGHTS_TOLERANCE
from .discrete.normalized import LIFT, UNLIFT
from .discrete.registry import BY_TERM, NO_THETA, ROWS, default_theta
from .inference import gaps, quadrature_fits, saturation
from .inference.reports import REPORT_SIZE, read_report
from .models.supports import INTERVAL, LOWER, REAL, UPPER
from .numerics.error_free import difference
from .numerics.matrices import is_factor
from .optimizers.newton import FULL
from .statuses import BAD_ARGUMENT, FINE, INVALID, NO_MEMORY, RAISED, ZERO

#: Places in the result of `fit_1d`.
FIT_MEAN = 0
FIT_DEVIATION = 1
FIT_ELBO = 2
FIT_ERROR = 3
FIT_GRADIENT_NORM = 4
FIT_EVALUATIONS = 5
FIT_STEPS = 6
FIT_FAULT_AT = 7
FIT_SIZE = 8

#: Most steps of a fit, as in Python.
_MOST_STEPS = 500

# All types of arguments and results.
NUMBERS = types.CPointer(types.float64)
SIZES = types.CPointer(types.int64)
INT, SIZE, DOUBLE, ANYTHING = types.int32, types.int64, types.float64, types.voidptr


# Divergences of two arrays.


@inlined
def _conclude(value, out):
    out[0] = value
    return INVALID if value != value else FINE


def _pair(p, q, n, mass, out):
    """Template (`whole`, `theta`, `most`): of two arrays; `most` is the largest code of a mass."""
    if n < 1 or not UNIT <= mass <= most:  # noqa: F821
        out[0] = math.nan
        return BAD_ARGUMENT
    return _conclude(whole(carray(p, n), carray(q, n), theta, np.int64(mass)), out)  # noqa: F821


def _one(p, n, mass, out):
    """Template (`whole`, `theta`, `most`): of one array."""
    if n < 1 or not UNIT <= mass <= most:  # noqa: F821
        out[0] = math.nan
        return BAD_ARGUMENT
    row = carray(p, n)
    return _conclude(whole(row, row, theta, np.int64(mass)), out)  # noqa: F821


def _order(p, q, n, alpha, mass, out):
    """Template (`whole`, `at_one`, `low`, `high`, `most`): of two arrays and an order in a range."""
    if n < 1 or not UNIT <= mass <= most or not low <= alpha <= high:  # noqa: F821
        out[0] = math.nan
        return BAD_ARGUMENT
    x, y, theta, code = carray(p, n), carray(q, n), (alpha, 0.0), np.int64(mass)
    if alpha == 1.0:
        return _conclude(at_one(x, y, theta, code), out)  # noqa: F821
    return _conclude(whole(x, y, theta, code), out)  # noqa: F821


def _one_order(p, n, alpha, mass, out):
    """Template (`whole`, `at_one`, `low`, `high`, `most`): of one array and an order in a range."""
    if n < 1 or not UNIT <= mass <= most or not low <= alpha <= high:  # noqa: F821
        out[0] = math.nan
        return BAD_ARGUMENT
    row, theta, code = carray(p, n), (alpha, 0.0), np.int64(mass)
    if alpha == 1.0:
        return _conclude(at_one(row, row, theta, code), out)  # noqa: F821
    return _conclude(whole(row, row, theta, code), out)  # noqa: F821


# Of many distributions.


def js_many(p, count, n, weights, mass, out):
    """The Jensen-Shannon divergence of `count` rows of n entries, with weights that sum to one."""
    out[0] = math.nan
    if count < 1 or n < 1 or not UNIT <= mass <= ANY:
        return BAD_ARGUMENT
    shares = carray(weights, count)
    total = 0.0
    for i in range(count):
        if not shares[i] >= 0.0:
            return INVALID
        total += shares[i]
    if not abs(total - 1.0) <= WEIGHTS_TOLERANCE:
        return INVALID
    space = np.empty((dependence.JS_SPACE, count))
    rows = carray(p, (count, n))
    return _conclude(dependence.js_many(rows, shares / total, np.int64(mass), space), out)


def mutual_information(joint, lengths, axes, mass, out):
    """The mutual information of a table with as many axes, of these lengths (the last varies fastest)."""
    out[0] = math.nan
    if axes < 2 or not UNIT <= mass <= NORMALIZE:
        return BAD_ARGUMENT
    shape = carray(lengths, axes)
    size, total = 1, 0
    for i in range(axes):
        if shape[i] < 1:
            return BAD_ARGUMENT
        size *= shape[i]
        total += shape[i]
    space = np.empty((2, total))
    return _conclude(dependence.mutual_information(carray(joint, size), shape, np.int64(mass), space), out)


# Terms of one entry.


@inlined
def _is_entry(x):
    return 0.0 <= x <= LARGEST_MASS


def _element(p, q):
    """Template (`term`, `theta`): the term of one entry; NaN if it is negative or not finite."""
    if not (_is_entry(p) and _is_entry(q)):
        return math.nan
    x, y = p * LIFT, q * LIFT
    return term(x, y, difference(x, y), theta) * UNLIFT  # noqa: F821


def _element_order(p, q, alpha):
    """Template (`term`, `low`, `high`): `_element` with an order from `low` to `high`."""
    if not (_is_entry(p) and _is_entry(q) and low <= alpha <= high):  # noqa: F821
        return math.nan
    x, y = p * LIFT, q * LIFT
    return term(x, y, difference(x, y), (alpha, 0.0)) * UNLIFT  # noqa: F821


# Gaussians and their mixtures.


def gaussian_kl(mean_p, chol_p, mean_q, chol_q, dim, out):
    """KL(p ‖ q) of two Gaussians, given by their means and lower Cholesky factors (row-major)."""
    out[0] = math.nan
    if dim < 1:
        return BAD_ARGUMENT
    factor_p, factor_q = carray(chol_p, (dim, dim)), carray(chol_q, (dim, dim))
    if not (is_factor(factor_p) and is_factor(factor_q)):
        return INVALID
    space = np.empty(2 * dim)
    value = gaussians.gaussian_kl(carray(mean_p, dim), factor_p, carray(mean_q, dim), factor_q, space)
    return _conclude(value, out)


def gaussian_logpdf(z, mean, chol, dim, out):
    """log N(z | mean, chol chol')."""
    out[0] = math.nan
    if dim < 1:
        return BAD_ARGUMENT
    factor = carray(chol, (dim, dim))
    if not is_factor(factor):
        return INVALID
    value = gaussians.gaussian_logpdf(carray(z, dim), carray(mean, dim), factor, np.empty(dim))
    return _conclude(value, out)


# Integrands over z of n numbers, in the form that SciPy's `quad` takes. A packed density is a row of doubles:
# the number of components, of dimensions, then the log weights, means and factors of the mixture.


@inlined
def _end(words, start):
    """The end of the packed density that starts here."""
    components, dim = int(words[start]), int(words[start + 1])
    return start + 2 + components * (1 + dim + dim * dim)


@inlined
def _logpdf(z, words, start, space):
    components, dim = int(words[start]), int(words[start + 1])
    if dim != z.size:
        return math.nan
    means = start + 2 + components
    chols = means + components * dim
    return mixtures.mixture_logpdf(
        z,
        words[start + 2 : means],
        words[means:chols].reshape((components, dim)),
        words[chols : chols + components * dim * dim].reshape((components, dim, dim)),
        space,
    )


def log_density(n, z, packed):
    """The log density at z; NaN where its dimension is not n."""
    words = carray(packed, _end(carray(packed, 2, np.float64), 0), np.float64)
    return _logpdf(carray(z, n), words, 0, np.empty(max(n, 0)))


def density(n, z, packed):
    """The density at z; NaN where its dimension is not n."""
    words = carray(packed, _end(carray(packed, 2, np.float64), 0), np.float64)
    return math.exp(_logpdf(carray(z, n), words, 0, np.empty(max(n, 0))))


def kl_integrand(n, z, packed):
    """p log(p / q) - p + q of two densities packed one after the other; NaN where a dimension is not n."""
    second = _end(carray(packed, 2, np.float64), 0)
    words = carray(packed, _end(carray(packed, second + 2, np.float64), second), np.float64)
    point, space = carray(z, n), np.empty(max(n, 0))
    log_p, log_q = _logpdf(point, words, 0, space), _logpdf(point, words, second, space)
    p, q = math.exp(log_p), math.exp(log_q)
    if p == 0.0:
        return q
    return kl_log_term(p, q, p - q, log_p - log_q, log_p, (0.0, 0.0), NO_THETA)


# One fit.


@inlined
def _is_interval(support, low, high):
    """Whether the code is the support of a single coordinate, with the bounds that it needs."""
    if support == REAL:
        return True
    if support == LOWER:
        return abs(low) < math.inf
    if support == UPPER:
        return abs(high) < math.inf
    return support == INTERVAL and -math.inf < low < high < math.inf


def fit_1d(log_joint, data, support, low, high, start_mean, start_scale, rtol, out):
    """The Gaussian closest to a log joint of one coordinate: a fit from Laplace's approximation."""
    for i in range(FIT_SIZE):
        out[i] = math.nan
    if not (_is_interval(support, low, high) and abs(start_mean) < math.inf):
        return BAD_ARGUMENT
    if not (0.0 < start_scale < math.inf and 0.0 < rtol < 1.0):
        return BAD_ARGUMENT
    kinds, bounds = np.empty(1, np.int64), np.empty((1, 2))
    kinds[0], bounds[0, 0], bounds[0, 1] = support, low, high
    mean, scale, chol = np.empty(1), np.empty(1), np.empty((1, 1))
    mean[0], scale[0] = start_mean, start_scale
    report = np.empty(REPORT_SIZE)
    try:
        space = quadrature_fits.workspace(1, 1)  # 1.4 MB, of which little is touched
    except Exception:
        return NO_MEMORY
    problem = data, kinds, bounds
    quadrature_fits.start_and_fit_quadrature(
        log_joint,
        problem,
        FULL,
        True,
        (mean, scale, chol),
        rtol,
        _MOST_STEPS,
        space,
        np.empty(0),
        report,
    )
    saturation.doubt(log_joint, problem, mean, chol, rtol, space, report)
    status = gaps.doubt(log_joint, problem, mean, chol, gaps.OF_FIT, space, report)
    found = read_report(report)
    if found.steps > 0.0:
        out[FIT_MEAN], out[FIT_DEVIATION] = mean[0], chol[0, 0]
    out[FIT_GRADIENT_NORM] = found.gradient_norm
    out[FIT_ELBO], out[FIT_ERROR] = found.elbo, found.error
    out[FIT_EVALUATIONS], out[FIT_STEPS] = found.evaluations, found.steps
    if RAISED <= status <= ZERO:
        out[FIT_FAULT_AT] = space.lattice.panel.where[0]
    return status


# The functions.


class Definition(NamedTuple):
    """How a C function is made."""

    template: Callable[..., Any]
    signature: Any
    bindings: Callable[[], dict[str, Any]] = dict  #: what names of the template are bound to


def _bindings(row):
    """What the names in the templates of a divergence are bound to, by its row."""
    whole = KERNELS[row.kernel or row.name].whole
    low, high = row.orders or (0.0, 0.0)
    return {
        "whole": whole,
        "at_one": KERNELS[row.kernel_at_one].whole if row.kernel_at_one else whole,
        "term": getattr(terms, f"{row.term}_term", None),
        "theta": default_theta(row),
        "most": ANY if row.measures else NORMALIZE,
        "low": low,
        "high": high,
    }


def _divergence(row):
    one, two = (_one_order, _order) if row.orders else (_one, _pair)
    template = one if row.arrays == 1 else two
    order = (DOUBLE,) if row.orders else ()
    signature = INT(*(row.arrays * (NUMBERS,)), SIZE, *order, INT, NUMBERS)
    return Definition(template, signature, lambda: _bindings(row))


def _of_one_entry(row):
    template, order = (_element_order, (DOUBLE,)) if row.orders else (_element, ())
    return Definition(template, DOUBLE(DOUBLE, DOUBLE, *order), lambda: _bindings(row))


_MANY = INT(NUMBERS, SIZE, SIZE, NUMBERS, INT, NUMBERS)
_JOINT = INT(NUMBERS, SIZES, SIZE, INT, NUMBERS)
_GAUSSIANS = INT(NUMBERS, NUMBERS, NUMBERS, NUMBERS, SIZE, NUMBERS)
_POINT = INT(NUMBERS, NUMBERS, NUMBERS, SIZE, NUMBERS)
_INTEGRAND = DOUBLE(INT, NUMBERS, ANYTHING)
_FIT = INT(ANYTHING, ANYTHING, INT, *(5 * (DOUBLE,)), NUMBERS)

FUNCTIONS = {
    **{name: _divergence(row) for name, row in ROWS.items()},
    **{f"{row.name}_element": _of_one_entry(row) for row in BY_TERM.values()},
    "js_many": Definition(js_many, _MANY),
    "mutual_information": Definition(mutual_information, _JOINT),
    "gaussian_kl": Definition(gaussian_kl, _GAUSSIANS),
    "gaussian_logpdf": Definition(gaussian_logpdf, _POINT),
    "pdf": Definition(density, _INTEGRAND),
    "logpdf": Definition(log_density, _INTEGRAND),
    "kl_integrand": Definition(kl_integrand, _INTEGRAND),
    "fit_1d": Definition(fit_1d, _FIT),
}


def make(name: str) -> Any:
    """Compile a function, or load it from the disk; it must be kept alive."""
    template, signature, bindings = FUNCTIONS[name]
    return specialise(template, name, exported_to_c(signature), **bindings())
