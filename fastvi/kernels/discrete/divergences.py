"""The kernels of all divergences, assembled from the rows of `registry`.

Used by `fastvi.discrete`, `all_pairs`, compiled code of users and the C functions.

The kernel of a divergence, ``name(p, q, theta, mass) -> float``, takes two contiguous 1-D arrays of one
length and dtype, and returns NaN for invalid input (negative or non-finite entries, a mass that `mass` does
not allow), raises nothing and needs no GIL. It is assembled from a term (`terms`):

1.  The arrays are cut into chunks. A fast loop (`chunks`) sums each, and the sums are added in order with
    compensation: the result does not depend on the number of threads, and its error does not grow with n.
2.  A closed form (`closed_forms`) converts the sums over the two measures to the divergence of the normalised
    distributions, or says that too few digits survive.
3.  Where the fast loop or the closed form does not hold, `careful` sums the terms of entries that are
    normalised in twice the precision (`normalized.entry`). A few entries have a loop of their own
    (`short_rows`).
"""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from ..borrowing import borrow_to_read
from ..compiler import Lazily, exported, formula, kernel, specialise
from ..numerics.elementary import log_ratio
from . import chunks, closed_forms, large_sums, logarithmic, scaled, short_rows, terms
from . import wide as wide_
from .chunks import SMALL_ORDER, sum_of_parts
from .closed_forms import masses_alike
from .large_sums import LOW
from .masses import ANY, NORMALIZE
from .normalized import (
    CHUNK,
    LIFT,
    UNLIFT,
    allowed,
    as_they_are,
    corrected,
    entry,
    exact_normalization,
    make_normalization,
    make_scaling,
    masses_of,
    masses_with_excess,
    no_masses,
    proportional,
    sensitivity,
    with_exact_masses,
    without_excess,
)
from .reading import readable
from .registry import NO_THETA, ROWS
from .short_rows import SHORT
from .wide import LEAST_SQUARE, is_wide, may_be_wide

# The result from a sum, times a factor: with `Row.root` its square root.


@kernel
def _plain(a, factor):
    return a * factor


@kernel
def _root(a, factor):
    return math.sqrt(a) * math.sqrt(factor)


@formula
def _never(p_alone, q_alone, theta):
    return False


def _careful(p, q, masses, theta, mass):
    """Template: the divergence where the fast loop or its closed form does not hold; see `_assemble`."""
    if not allowed(p, masses.p, masses.q, mass):
        return math.nan
    if infinite(masses.p_alone, masses.q_alone, theta):  # noqa: F821
        return math.inf
    if mass == NORMALIZE and is_wide(p, q, masses):
        return wide(p, q, masses, theta, mass)  # noqa: F821
    a = 0.0
    precise = orders and mass != ANY and sensitivity(theta) > SMALL_ORDER  # noqa: F821
    if mass == ANY:
        normalization, factor = make_scaling(masses)
    else:
        if not precise:
            a = in_one_pass(p, q, masses, theta)  # noqa: F821
        if 0.0 < a < math.inf:
            return finish(a, UNLIFT)  # noqa: F821
        normalization, factor = make_normalization(masses), 1.0
        if proportional(p, q, normalization):
            return 0.0
        if precise:
            normalization = with_exact_masses(p, q, normalization)
    # Of nearly equal distributions the first chunk shows that the masses are not exact enough.
    size = p.size if mass == ANY or precise else CHUNK
    for i in range(0 if a == math.inf else 4):
        sums = all_sums(p[:size], q[:size], normalization, theta, -1.0, math.inf)  # noqa: F821
        a, good = correct(sums, theta)  # noqa: F821
        if mass == ANY or precise:
            a, good = sums.terms, mass == ANY or i > 0 or sums.terms > alike  # noqa: F821
        if good and size == p.size:
            break
        if not good:
            # As far apart as rounding errors: one correction of the masses leaves too few digits.
            if i > 0 or a <= alike:  # noqa: F821
                normalization = exact_normalization(p, q, normalization)
            elif size == p.size:
                normalization = corrected(normalization, sums.excess)
            else:
                normalization = without_excess(p, q, normalization)
        size = p.size
    if root and a < LEAST_SQUARE:  # noqa: F821
        return wide(p, q, masses, theta, mass)  # noqa: F821
    if a > LIFT:
        a = large(p, q, normalization, theta, a)  # noqa: F821
    if a < math.inf:
        return finish(max(a, 0.0), UNLIFT * factor)  # noqa: F821
    if mass == ANY:
        # Scaled up, small measures with large exponents may overflow where their sum does not.
        normalization, factor = as_they_are(), 1.0
    return finish(lowered(p, q, normalization, theta), UNLIFT * factor * (1.0 / LOW))  # noqa: F821


def _divergence(p, q, theta, mass):
    """Template (`short`, `any_masses`, `measure`, `quick`, `quick32`, `careful`, `finish`): on one thread."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    masses_first = not any_masses and mass == NORMALIZE and p.size > SHORT  # noqa: F821
    masses = measure(p, q) if masses_first else no_masses()  # noqa: F821
    if p.size <= SHORT:
        value = short(p, q, theta, mass)  # noqa: F821
        if value == value:
            return value
    elif not masses_first or masses_alike(p, masses):
        value = quick(p, q, theta, mass)  # noqa: F821
        if value == value:
            return finish(value, 1.0)  # noqa: F821
        value = quick32(p, q, theta, mass)  # noqa: F821
        if value == value:
            return finish(value, 1.0)  # noqa: F821
    return careful(p, q, masses if masses_first else measure(p, q), theta, mass)  # noqa: F821


def _uncopied(p, q, integers, buffers, theta, mass):
    """Template (`any_masses`, `measure`, `quick` and those of `begin`): of what is `readable`.

    As `_divergence` does with copies; NaN where that takes more than these passes.
    """
    p, q = readable(p, integers[0], buffers[0]), readable(q, integers[1], buffers[1])
    masses_first = not any_masses and mass == NORMALIZE  # noqa: F821
    masses = measure(p, q) if masses_first else no_masses()  # noqa: F821
    if not masses_first or masses_alike(p, masses):
        value = quick(p, q, theta, mass)  # noqa: F821
        if value == value:
            return finish(value, 1.0)  # noqa: F821
    if mass == ANY or (orders and sensitivity(theta) > SMALL_ORDER):  # noqa: F821
        return math.nan
    if not masses_first:
        masses = measure(p, q)  # noqa: F821
    if not allowed(p, masses.p, masses.q, mass):
        return math.nan
    if infinite(masses.p_alone, masses.q_alone, theta):  # noqa: F821
        return math.inf
    if mass == NORMALIZE and may_be_wide(p, masses):
        return math.nan
    a = in_one_pass(p, q, masses, theta)  # noqa: F821
    return finish(a, UNLIFT) if 0.0 < a < math.inf else math.nan  # noqa: F821


def _partial(p, q, theta, first, last, parts):
    """Template (`chunk`): the sums of chunks `first` to `last` - 1, each into its row of `parts`."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    for i in range(first, last):
        low = i * CHUNK
        parts[i] = chunk(p[low : low + CHUNK], q[low : low + CHUNK], theta)  # noqa: F821


def _finish(p, q, parts, theta, mass):
    """Template (`promising`, `concluded`, `quick32`, `measure`, `careful`, `finish`): from all chunks."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    # As on one thread, so that the result has the same bits.
    if promising(p, sum_of_parts(parts[:1]), theta, mass):  # noqa: F821
        value = concluded(p, sum_of_parts(parts), theta, mass)  # noqa: F821
        if value == value:
            return finish(value, 1.0)  # noqa: F821
    value = quick32(p, q, theta, mass)  # noqa: F821
    if value == value:
        return finish(value, 1.0)  # noqa: F821
    return careful(p, q, measure(p, q), theta, mass)  # noqa: F821


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
    uncopied: Any = (
        None  #: (p, q, integers, buffers, theta, mass) -> float or NaN, of what is `reading.readable`
    )


def _assemble(row):
    """The kernels of a row: assembled from its term, or those in its module."""
    name = row.name
    if row.module:
        module = import_module(f".{row.module}", __package__)
        uncopied = getattr(module, f"{name}_uncopied", None)
        return Divergence(getattr(module, name), getattr(module, f"log_{name}"), uncopied=uncopied)
    chunk = getattr(chunks, f"{row.term}_chunk", chunks.no_chunk)
    infinite = getattr(terms, f"{row.term}_infinite", _never)
    normalise = getattr(closed_forms, f"normalise_{row.normalise}")
    smooth = row.normalise != "linear"
    finish = _root if row.root else _plain
    lowered = getattr(large_sums, f"low_{row.term}", large_sums.low_infinite)
    large = getattr(large_sums, f"large_{row.term}", large_sums.large_as_it_is)
    term, alike = scaled.summed(row.term)
    begin = {
        "infinite": infinite,
        "orders": bool(row.orders),
        "in_one_pass": scaled.assemble(name, row.term, narrow=row.normalise in ("quadratic", "linear")),
        "finish": finish,
    }
    careful = specialise(
        _careful,
        f"_{name}_careful",
        wide=wide_.assemble(name, row, finish),
        root=row.root,
        all_sums=scaled.make_sums(name, term, entry),
        correct=scaled.make_correction(name, term),
        alike=alike,
        large=large,
        lowered=lowered,
        **begin,
    )
    closed = closed_forms.assemble(name, chunk, normalise, row.term)
    # Where the masses are not in a closed form, near arrays need what is wrong with them.
    measure = masses_with_excess if row.normalise in ("linear", "hellinger", "chi2", "alpha") else masses_of
    ends = {"careful": careful, "finish": finish, "measure": measure, **closed._asdict()}
    return Divergence(
        whole=specialise(_divergence, name, exported, short=short_rows.assemble_one(name), **ends),
        log=logarithmic.assemble(name, row, normalise, chunk, smooth=smooth, root=row.root, finish=finish),
        partial=specialise(_partial, f"_{name}_partial", exported, chunk=chunk),
        finish=specialise(_finish, f"_{name}_finish", exported, **ends),
        uncopied=specialise(
            _uncopied,
            f"_{name}_uncopied",
            exported,
            any_masses=closed.any_masses,
            measure=measure,
            quick=closed.quick,
            **begin,
        ),
    )


#: The kernels of each divergence, by the name of its function.
KERNELS = Lazily({name: partial(_assemble, row) for name, row in ROWS.items() if not row.kernel})

kl = KERNELS["kl"].whole
js = KERNELS["js"].whole
js_distance = KERNELS["js_distance"].whole
hellinger = KERNELS["hellinger"].whole
