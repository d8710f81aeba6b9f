"""The kernels of all divergences, assembled from the rows of `registry`.

Used by `fastvi.discrete`, `all_pairs`, compiled code of users and the C functions.

The kernel of a divergence, ``name(p, q, theta, mass) -> float``, takes two contiguous 1-D arrays of one
length and dtype, and returns NaN for invalid input (negative or non-finite entries, a mass that `mass` does
not allow), raises nothing and needs no GIL. It is assembled from a term (`terms`):

1.  The arrays are cut into chunks. Each gives `chunks.Sums`, which are added in order by a compensated
    sum: the result does not depend on the number of threads, and its error does not grow with n.
2.  If the masses are not exactly one, `normalise` converts the sums over the two measures to the
    divergence of the normalised distributions, or says that too few digits survive.
3.  In that rare case (p nearly proportional to q, or masses that differ), `refined` sums again, over entries
    normalised in twice the precision (`normalized.entry`).
"""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..compiler import Lazily, adder, exported, formula, kernel, specialise
from ..numerics.elementary import log_ratio
from ..numerics.error_free import add_compensated
from . import chunks, terms
from .chunks import lifted_sums, sum_of_parts, whole_sums
from .masses import ANY, NORMALIZE, UNIT
from .normalized import (
    CHUNK,
    LIFT,
    LOSS64,
    UNLIFT,
    allowed,
    entry,
    entry_with_logs,
    identity_normalization,
    is_unit,
    log_entry,
    make_log_normalization,
    make_normalization,
    masses_of,
    over_mass,
    proportional,
    tolerances,
)
from .registry import NO_THETA, ROWS
from .terms import LOW, kl_term

#: Masses that differ by less than this part are divided out of a short array without `conclude`.
_SAME_MASS = 1e-12

#: Below this part of the sum the term of the two masses, delta**2 / 2, is no more than rounding.
_NO_TERM = 1e-17

#: Results below this are left to `conclude`, which keeps subnormals out.
_TINY_RESULT = 1e-200

# The result from the (lifted) sum, times a factor: with `Row.root` its square root.


@kernel
def _unlift(a, factor):
    return a * UNLIFT * factor


@kernel
def _unlift_root(a, factor):
    return math.sqrt(a) * 2.0**-27 * math.sqrt(factor)


# `Row.normalise`: the divergence of the normalised distributions from the sum `a` over the two measures,
# divided by the mass of the first, where the masses differ by the fraction `delta`; and whether it has the
# digits of the input.


@kernel
def _normalise_kl(a, delta, loss):
    # The grouping property: sum of terms = (mass of p) KL(normalised) + (term of the two masses), exactly.
    # The sum has an error of loss / 16 (float32: loss / 2), which allows this much cancellation.
    if delta * delta * LIFT <= _NO_TERM * a:
        return a, True
    value = a - kl_term(LIFT, LIFT * (1.0 + delta), -delta * LIFT, NO_THETA)
    return value, a <= (16.0 if loss == LOSS64 else 2.0) * value


@kernel
def _normalise_quadratic(a, delta, loss):
    # Near p = q the term is quadratic in p - q: a change of mass by delta changes the sum by delta a +
    # delta**2.
    return a, delta == 0.0 or (abs(delta) <= loss and delta * delta * LIFT <= loss * a)


@kernel
def _normalise_linear(a, delta, loss):
    return a, delta == 0.0 or abs(delta) * LIFT <= loss * min(a, LIFT)


def _refined_sums(p, q, normalization, theta):
    """Template (`term`): the sum over normalised entries."""
    a = 0.0
    for i in range(p.size):
        x, y, d = entry(p[i], q[i], normalization)
        a += term(x, y, d, theta)  # noqa: F821
    return a


def _refined(p, q, normalization, theta):
    """Template (`refined_sums`): the sum over normalised entries, 0 where p and q are proportional."""
    if proportional(p, q, normalization):
        return 0.0
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = refined_sums(p[low : low + CHUNK], q[low : low + CHUNK], normalization, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    return total + lost


def _lowered(p, q, normalization, theta):
    """Template (`read`, `term`): a sum that overflows when it is lifted, by terms times `LOW`."""
    total, lost = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, _ = read(p[i], q[i], normalization)  # noqa: F821
        total, lost = add_compensated(total, lost, term(x, y, d, r, theta))  # noqa: F821
    return (total + lost) * (UNLIFT / LOW)


def _log_term(p, q, d, x, theta):
    """Template (`term`): the term for log-probabilities, where p and q may underflow without harm."""
    return term(p, q, d, theta)  # noqa: F821


@kernel
def _infinite(p, q, normalization, theta):
    """`lowered` of a divergence whose sum overflows only where it is infinite."""
    return math.inf


def _conclude(p, q, sums, theta, mass):
    """Template (`normalise`, `refined`, `lowered`, `finish`): the result from the sums over all entries."""
    a, delta, mass_p = sums.terms, sums.change, sums.mass
    mass_q = mass_p + delta
    normalised = mass == ANY
    if mass == NORMALIZE and not abs(delta) <= 0.5 * mass_p:
        # The smaller mass may have been rounded away in the difference of the two.
        mass_p, mass_q = masses_of(p, q)
        if not allowed(p, mass_p, mass_q, mass):
            return math.nan
    else:
        if not allowed(p, mass_p, mass_q, mass):
            return math.nan
        if mass != ANY and a < math.inf:
            a, normalised = normalise(over_mass(a, mass_p), delta / mass_p, tolerances(p)[1])  # noqa: F821
    if normalised and a < math.inf:
        return finish(a, 1.0)  # noqa: F821
    normalization = identity_normalization() if mass == ANY else make_normalization(p, q, mass_p, mass_q)
    if a < math.inf:
        a = refined(p, q, normalization, theta)  # noqa: F821
    return finish(a, 1.0) if a < math.inf else lowered(p, q, normalization, theta)  # noqa: F821


def _divergence(p, q, theta, mass):
    """Template (`chunk`, `all_chunks`, `conclude`): the whole computation, on one thread."""
    if p.size <= CHUNK:
        sums = chunk(p, q, theta)  # noqa: F821
        total, change = sums.mass, sums.change
        if mass == UNIT and is_unit(total * UNLIFT, p) and abs(change) < _SAME_MASS * total:
            # The common case, apart from `conclude`, which is too large to be inlined: rows of 256 gain 5 %.
            value, normalised = normalise(sums.terms / total * LIFT, change / total, tolerances(p)[1])  # noqa: F821
            if normalised and _TINY_RESULT < value < math.inf:
                return finish(value, 1.0)  # noqa: F821
        return conclude(p, q, sums, theta, mass)  # noqa: F821
    return conclude(p, q, all_chunks(p, q, theta), theta, mass)  # noqa: F821


def _partial(p, q, theta, first, last, parts):
    """Template (`chunk`): the sums of chunks `first` to `last` - 1, each into its row of `parts`."""
    for i in range(first, last):
        low = i * CHUNK
        parts[i] = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821


def _finish(p, q, parts, theta, mass):
    """Template (`conclude`): the result from the sums of all chunks."""
    return conclude(p, q, sum_of_parts(parts), theta, mass)  # noqa: F821


def _log_sums(p, q, normalization, theta):
    """Template (`term`): the sum over the exponentials of p and q."""
    a = 0.0
    for i in range(p.size):
        x, y, d, r, _ = log_entry(p[i], q[i], normalization)
        a += term(x, y, d, r, theta)  # noqa: F821
    return a


def _log_divergence(p, q, theta, mass):
    """Template (`log_sums`, `lowered`, `finish`): the whole computation for log-probabilities."""
    normalization, factor = make_log_normalization(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = log_sums(p[low : low + CHUNK], q[low : low + CHUNK], normalization, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    if total == math.inf:
        return lowered(p, q, normalization, theta) * factor  # noqa: F821
    return finish(total + lost, factor)  # noqa: F821


# What a result in nats is divided by, for a base that compiled code gives.


@kernel
def unit_one(base):
    """1, where there is no base."""
    return 1.0


@kernel
def log_unit(base):
    """The number of nats in one unit of the logarithm to `base`; NaN unless 1 < base < inf."""
    return math.log(base) if 1.0 < base < math.inf else math.nan


@kernel
def root_unit(base):
    """The square root of `log_unit`, for the root of a divergence."""
    return math.sqrt(log_unit(base))


# The gradient of the generalised divergence.


@exported
def kl_grad(p, q, grad_p, grad_q):
    """Write log(p / q) to `grad_p` and 1 - p / q to `grad_q`, 0 where p = q = 0; return the divergence."""
    for i in range(p.size):
        x, y = np.float64(p[i]) * LIFT, np.float64(q[i]) * LIFT
        if x > 0.0 and y > 0.0:
            grad_p[i] = log_ratio(x, y, x - y)
            grad_q[i] = (y - x) / y
        elif x > 0.0:
            grad_p[i], grad_q[i] = math.inf, -math.inf
        elif y > 0.0:
            grad_p[i], grad_q[i] = -math.inf, 1.0
        else:
            grad_p[i], grad_q[i] = 0.0, 0.0
    return kl(p, q, NO_THETA, ANY)


# Assembly.


class Divergence(NamedTuple):
    """The compiled kernels of one divergence."""

    whole: Any  #: (p, q, theta, mass) -> float, two 1-D arrays
    log: Any  #: the same for log-probabilities
    partial: Any = None  #: (p, q, theta, first, last, parts): the sums of some chunks of a long array
    finish: Any = None  #: (p, q, parts, theta, mass) -> float, from the sums of all chunks


#: By `Row.normalise`.
NORMALISE = {"kl": _normalise_kl, "quadratic": _normalise_quadratic, "linear": _normalise_linear}


def _assemble(row):
    """The kernels of a row: assembled from its term, or those in its module."""
    name = row.name
    if row.module:
        module = import_module(f".{row.module}", __package__)
        return Divergence(getattr(module, name), getattr(module, f"log_{name}"))
    term = getattr(terms, f"{row.term}_term")
    log_term = getattr(terms, f"{row.term}_log_term", None)
    low_term = getattr(terms, f"{row.term}_low", None)
    chunk = getattr(chunks, f"{row.term}_chunk", None)
    normalise, finish = NORMALISE[row.normalise], _unlift_root if row.root else _unlift
    if log_term is None:
        log_term = specialise(_log_term, f"_{name}_log_term", formula, term=term)
    if chunk is None:
        chunk = specialise(lifted_sums, f"_{name}_chunk", adder, term=term)
    refined_sums = specialise(_refined_sums, f"_{name}_refined_sums", adder, term=term)
    refined = specialise(_refined, f"_{name}_refined", refined_sums=refined_sums)
    lowered = log_lowered = _infinite
    if low_term is not None:
        lowered = specialise(_lowered, f"_{name}_lowered", read=entry_with_logs, term=low_term)
        log_lowered = specialise(_lowered, f"_log_{name}_lowered", read=log_entry, term=low_term)
    conclude = specialise(
        _conclude, f"_{name}_conclude", normalise=normalise, refined=refined, lowered=lowered, finish=finish
    )
    log_sums = specialise(_log_sums, f"_log_{name}_sums", adder, term=log_term)
    all_chunks = specialise(whole_sums, f"_{name}_sums", chunk=chunk)
    parts = {
        "chunk": chunk,
        "all_chunks": all_chunks,
        "normalise": normalise,
        "conclude": conclude,
        "finish": finish,
    }
    log_parts = {"log_sums": log_sums, "lowered": log_lowered, "finish": finish}
    return Divergence(
        whole=specialise(_divergence, name, exported, **parts),
        log=specialise(_log_divergence, f"log_{name}", exported, **log_parts),
        partial=specialise(_partial, f"_{name}_partial", exported, chunk=chunk),
        finish=specialise(_finish, f"_{name}_finish", exported, conclude=conclude),
    )


#: The kernels of each divergence, by the name of its function.
KERNELS = Lazily({name: partial(_assemble, row) for name, row in ROWS.items() if not row.kernel})

kl = KERNELS["kl"].whole
js = KERNELS["js"].whole
js_distance = KERNELS["js_distance"].whole
hellinger = KERNELS["hellinger"].whole
