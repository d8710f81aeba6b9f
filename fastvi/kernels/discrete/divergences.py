"""Divergences of two discrete distributions: the loops behind `fastvi.discrete`.

The kernel of a divergence, ``name(p, q, theta, mass) -> float``, takes two contiguous 1-D arrays of one
length and dtype, and returns NaN for invalid input (negative or non-finite entries, a mass that `mass` does
not allow), raises nothing and needs no GIL. It is assembled from a term (`terms`) like this:

1.  The array is cut into chunks (`sums`). Each gives (sum of terms, sum of q - p, sum of p). They are
    combined in order with a compensated sum: the result depends neither on the number of threads nor, beyond
    the last digits, on n.
2.  For distributions that do not sum to exactly one, `normalise` turns the sums for the measures into the
    divergence of the normalised distributions, or reports that too few digits survive.
3.  Then `refined` runs again over entries normalised in twice the precision (`frames`). This is rare: p
    close to proportional to q, or masses that differ.

Which divergences there are, and from which term each is made, is in `registry`.
"""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..compiler import Lazily, adder, exported, formula, inlined, kernel, specialise
from ..numerics.elementary import log_ratio
from ..numerics.error_free import add_compensated
from . import chunks, terms
from .chunks import lifted_sums, whole_sums
from .masses import ANY, NORMALIZE, UNIT
from .normalized import (
    CHUNK,
    LIFT,
    LOSS64,
    UNLIFT,
    allowed,
    entry,
    is_unit,
    make_frame,
    make_log_frame,
    masses_of,
    over_mass,
    plain_frame,
    proportional,
    read,
    read_log,
    tolerances,
)
from .registry import METRICS, NO_THETA
from .terms import LOW, kl_term

# How the result comes from the (lifted) sum, times a factor.


@kernel
def _unlift(a, factor):
    return a * UNLIFT * factor


@kernel
def _unlift_root(a, factor):
    return math.sqrt(a) * 2.0**-27 * math.sqrt(factor)


# Whether the sum `a` over two measures, divided by the mass of the first, is the divergence of the
# normalised distributions to the digits of the input, where the masses differ by the fraction `delta`:
# (value, yes or no).


@kernel
def _normalise_kl(a, delta, loss):
    # Grouping: sum of terms = (mass of p) * KL(normalised) + (term of the two masses), exactly. The first
    # is good to loss / 16 (float32: loss / 2), and that much may cancel.
    if delta * delta * LIFT <= 1e-17 * a:
        return a, True
    value = a - kl_term(LIFT, LIFT * (1.0 + delta), -delta * LIFT, NO_THETA)
    return value, a <= (16.0 if loss == LOSS64 else 2.0) * value


@kernel
def _normalise_quadratic(a, delta, loss):
    # Near p = q a change of mass by delta changes a sum of squares by delta a and by delta**2.
    return a, delta == 0.0 or (abs(delta) <= loss and delta * delta * LIFT <= loss * a)


@kernel
def _normalise_linear(a, delta, loss):
    return a, delta == 0.0 or abs(delta) * LIFT <= loss * min(a, LIFT)


def _refined_sums(p, q, frame, theta):
    """Template (`term`): the sum over normalised entries."""
    a = 0.0
    for i in range(p.size):
        x, y, d = entry(p[i], q[i], frame)
        a += term(x, y, d, theta)  # noqa: F821
    return a


def _refined(p, q, frame, theta):
    """Template (`refined_sums`): the sum over normalised entries, 0 where p and q are proportional."""
    if proportional(p, q, frame):
        return 0.0
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = refined_sums(p[low : low + CHUNK], q[low : low + CHUNK], frame, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    return total + lost


def _lowered(p, q, frame, theta):
    """Template (`read`, `term`): a sum that overflows when it is lifted, brought back without that."""
    total, lost = 0.0, 0.0
    for i in range(p.size):
        x, y, d, r, _ = read(p[i], q[i], frame)
        total, lost = add_compensated(total, lost, term(x, y, d, r, theta))  # noqa: F821
    return (total + lost) * (UNLIFT / LOW)


def _log_term(p, q, d, x, theta):
    """Template (`term`): a term for log-probabilities, where an underflow of p or q is harmless."""
    return term(p, q, d, theta)  # noqa: F821


@kernel
def _infinite(p, q, frame, theta):
    """For divergences that are infinite only where p > 0 = q."""
    return math.inf


@kernel
def _total(parts):
    """The sums of all chunks, in order."""
    a, al, d, dl, m, ml = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(parts.shape[0]):
        a, al = add_compensated(a, al, parts[i, 0])
        d, dl = add_compensated(d, dl, parts[i, 1])
        m, ml = add_compensated(m, ml, parts[i, 2])
    return a + al, d + dl, m + ml


def _conclude(p, q, a, delta, mass_p, theta, mass):
    """Template (`normalise`, `refined`, `lowered`, `finish`): the result from the (lifted) sums."""
    mass_q = mass_p + delta
    normalised = mass == ANY
    if mass == NORMALIZE and not abs(delta) <= 0.5 * mass_p:
        # One mass may have been lost in the difference to the other.
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
    frame = plain_frame() if mass == ANY else make_frame(p, q, mass_p, mass_q)
    if a < math.inf:
        a = refined(p, q, frame, theta)  # noqa: F821
    return finish(a, 1.0) if a < math.inf else lowered(p, q, frame, theta)  # noqa: F821


def _divergence(p, q, theta, mass):
    """Template (`chunk`, `all_chunks`, `conclude`): the whole computation on one thread."""
    if p.size <= CHUNK:
        x, y, z = chunk(p, q, theta)  # noqa: F821
        if mass == UNIT and is_unit(z * UNLIFT, p) and abs(y) < 1e-12 * z:
            # The common case, apart from `conclude`, which is too large to be inlined: rows of 256 gain 5 %.
            value, normalised = normalise(x / z * LIFT, y / z, tolerances(p)[1])  # noqa: F821
            if normalised and 1e-200 < value < math.inf:
                return finish(value, 1.0)  # noqa: F821
        return conclude(p, q, x, y, z, theta, mass)  # noqa: F821
    a, delta, mass_p = all_chunks(p, q, theta)  # noqa: F821
    return conclude(p, q, a, delta, mass_p, theta, mass)  # noqa: F821


def _partial(p, q, theta, first, last, parts):
    """Template (`chunk`): chunks number `first` to `last` - 1, each into its row of `parts`."""
    for i in range(first, last):
        low = i * CHUNK
        parts[i] = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821


def _finish(p, q, parts, theta, mass):
    """Template (`conclude`): the result from the parts."""
    a, delta, mass_p = _total(parts)
    return conclude(p, q, a, delta, mass_p, theta, mass)  # noqa: F821


def _log_sums(p, q, frame, theta):
    """Template (`term`): the sum over the exponentials of p and q."""
    a = 0.0
    for i in range(p.size):
        x, y, d, r, _ = read_log(p[i], q[i], frame)
        a += term(x, y, d, r, theta)  # noqa: F821
    return a


def _log_divergence(p, q, theta, mass):
    """Template (`log_sums`, `lowered`, `finish`): for distributions given by their logarithms."""
    frame, factor = make_log_frame(p, q, mass)
    if not factor >= 0.0:
        return math.nan
    total, lost = 0.0, 0.0
    for low in range(0, p.size, CHUNK):
        part = log_sums(p[low : low + CHUNK], q[low : low + CHUNK], frame, theta)  # noqa: F821
        total, lost = add_compensated(total, lost, part)
    if total == math.inf:
        return lowered(p, q, frame, theta) * factor  # noqa: F821
    return finish(total + lost, factor)  # noqa: F821


# The unit of a logarithm, for compiled callers: they pick one of these when their code is compiled.


@kernel
def one(base):
    """The unit is the nat."""
    return 1.0


@kernel
def log_unit(base):
    """The number of nats in one unit of the logarithm to `base`; NaN unless 1 < base < inf."""
    return math.log(base) if 1.0 < base < math.inf else math.nan


@kernel
def root_unit(base):
    """The square root of that."""
    return math.sqrt(log_unit(base))


# The gradient of the generalised divergence.


@kernel
def kl_grad(p, q, grad_p, grad_q):
    """Write log(p / q) and 1 - p / q into `grad_p` and `grad_q`, 0 where both are 0; return the value."""
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


# Assembly: one divergence from its parts.


class Divergence(NamedTuple):
    """The compiled kernels of one divergence."""

    whole: Any  #: (p, q, theta, mass) -> float, two 1-D arrays
    log: Any  #: the same for log-probabilities
    partial: Any = None  #: (p, q, theta, first, last, parts): some chunks of a long array
    finish: Any = None  #: (p, q, parts, theta, mass) -> float, from all parts
    inner: Any = None  #: `whole`, inlined into the user's compiled code


#: How the sum over two measures becomes that of the normalised distributions, by `Row.normalise`.
NORMALISE = {"kl": _normalise_kl, "quadratic": _normalise_quadratic, "linear": _normalise_linear}


def _assemble(row):
    """The kernels of a row: from its term, or as its module has them."""
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
        lowered = specialise(_lowered, f"_{name}_lowered", read=read, term=low_term)
        log_lowered = specialise(_lowered, f"_log_{name}_lowered", read=read_log, term=low_term)
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
        inner=specialise(_divergence, f"_{name}_inner", inlined, **parts),
        log=specialise(_log_divergence, f"log_{name}", exported, **log_parts),
        partial=specialise(_partial, f"_{name}_partial", exported, chunk=chunk),
        finish=specialise(_finish, f"_{name}_finish", exported, conclude=conclude),
    )


#: The kernels of each divergence, by the name of its function.
KERNELS = Lazily({name: partial(_assemble, row) for name, row in METRICS.items()})

kl = KERNELS["kl"].whole
js = KERNELS["js"].whole
js_distance = KERNELS["js_distance"].whole
hellinger = KERNELS["hellinger"].whole
