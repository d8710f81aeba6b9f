"""A search for wrong divergences: random inputs of every kind, in every door, against mpmath.

The tests take a few cases of each function and kind. ``python tests/discrete/test_hunt.py --minutes 60`` goes
on with other seeds, and prints what is wrong.
"""

import argparse
import collections
import math
import sys
import time
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import scipy.sparse

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

import fastvi as fv
from fastvi.discrete import all_pairs, quick
from fastvi.kernels.discrete.registry import ROWS
from helpers.divergence_rows import EVERY, ROOTED, arrays
from helpers.kinds import F32, KINDS
from reference import discrete as reference

ORDERS = (0.0, 1e-300, 1e-12, 0.3, 0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-12, 1.7, 2.0, 10.0, 50.0, 200.0, 1e6)


def parameters(name, rng):
    row = ROWS[name]
    if row.orders:
        order = rng.choice(ORDERS) if rng.random() < 0.6 else 10.0 ** rng.uniform(-2.0, 6.0)
        if row.orders[0] == 0.0:
            return {"alpha": math.inf if rng.random() < 0.05 else float(order)}
        return {"alpha": float(rng.choice([1, -1]) * order)}
    if name == "js":
        return {"weights": (0.5, 0.5) if rng.random() < 0.7 else (0.125, 0.875)}
    return {}


def through_rows(name, p, q, keywords):
    """As the second of some rows, in an array that is not contiguous."""
    # Sixteen short rows and more have a loop of their own.
    p, q = (np.stack([a] * (17 if p.size <= 8 else 3), axis=-1) for a in (p, q))
    return getattr(fv, name)(*arrays(name, p, q), axis=0, **keywords)[1]


def through_words(name, p, q, keywords):
    """As long arrays that are not copied: counts as they are, others with strides."""
    if not p.dtype == q.dtype == np.int64:
        p, q = np.repeat(p, 2)[::2], np.repeat(q, 2)[::-2][::-1]
    with mock.patch.object(quick, "_UNCOPIED", 9):
        return getattr(fv, name)(*arrays(name, p, q), **keywords)


def through_table(name, p, q, keywords):
    """As the second row of a contiguous table, beside one distribution."""
    return getattr(fv, name)(*arrays(name, np.stack([q, p]), q), **keywords)[1]


def through_axes(name, p, q, keywords):
    """Along the first and the last of three axes, which are kept."""
    k = 2 if p.size % 2 == 0 else 1
    p, q = (np.stack([a.reshape(k, -1)] * 2, axis=1) for a in (p, q))
    found = getattr(fv, name)(*arrays(name, p, q), axis=(0, 2), keepdims=True, **keywords)
    assert found.shape == (1, 2, 1)
    return found[0, 1, 0]


def through_holes(name, p, q, keywords):
    """With entries that are masked in p, and NaN in q, left out."""
    nothing = float if p.dtype.kind in "iub" else p.dtype
    p = np.ma.masked_array(np.insert(p, 1, p[0]), np.arange(p.size + 1) == 1)
    q = np.insert(q.astype(nothing), 1, math.nan)
    return getattr(fv, name)(*arrays(name, p, q), nan_policy="omit", **keywords)


def through_sparse(name, p, q, keywords):
    """As the second row of sparse matrices."""
    p, q = (scipy.sparse.csr_array(np.stack([np.ones_like(a), a])) for a in (p, q))
    if keywords["mass"] == "unit":
        p, q = (rows[[1, 1]] for rows in (p, q))
    return getattr(fv, name)(*arrays(name, p, q), **keywords)[1]


def through_pairwise(name, p, q, keywords):
    with mock.patch.object(all_pairs, "_FEW", 0):  # as a large table
        return fv.pairwise(p[None], np.stack([q, q]), name, **keywords)[0, 1]


def doors(name, case):
    """The ways to the divergence of a case: functions of its keywords."""
    p, q = case.p, case.q
    if case.repeats is not None:
        p, q = np.repeat(p, case.repeats), np.repeat(q, case.repeats)
    yield "function", lambda keywords: getattr(fv, name)(*arrays(name, p, q), **keywords)
    yield "rows", lambda keywords: through_rows(name, p, q, keywords)
    yield "words", lambda keywords: through_words(name, p, q, keywords)
    yield "table", lambda keywords: through_table(name, p, q, keywords)
    yield "axes", lambda keywords: through_axes(name, p, q, keywords)
    yield "holes", lambda keywords: through_holes(name, p, q, keywords)
    if not case.log and p.dtype != np.float16:
        yield "sparse", lambda keywords: through_sparse(name, p, q, keywords)
    if ROWS[name].arrays == 2 and not case.log:
        yield "pairwise", lambda keywords: through_pairwise(name, p, q, keywords)


def size_of_terms(name, case):
    """The sum of |p log q|, which an entropy of measures has the digits of: its terms differ in sign."""
    x, y = arrays(name, case.p, case.q)[0], arrays(name, case.p, case.q)[-1]
    p, q = (np.exp(a.astype(float)) if case.log else a.astype(float) for a in (x, y))
    used = p > 0
    with np.errstate(divide="ignore"):
        return float((p[used] * np.abs(np.log(q[used]))).sum())


def off(name, case, value, expected):
    """The relative error; infinite for NaN, a negative divergence, and a type that is not float."""
    value = float(value)
    if case.mass == "any" and "entropy" in name and math.isfinite(expected):
        return abs(value - float(expected)) / max(size_of_terms(name, case), 1e-300)
    if not value >= 0.0:
        return math.inf
    if name in ROOTED and value == 0.0 and expected < 2.0**-1020:
        return 0.0  # the root of what underflows
    if 0.0 < expected < 1e-307:
        return abs(value - float(expected)) / 1e-307  # subnormal: a few units in the last place
    return reference.relative_error(value, expected)


def failures(name, kind, seed):
    """What is wrong with a divergence for one case of a kind, in each door."""
    rng = np.random.default_rng((seed, zlib.crc32(f"{name} {kind}".encode())))
    case = KINDS[kind](rng)
    if name == "renyi_entropy" and case.repeats is not None:
        return  # its reference takes no repeats
    if case.mass == "any" and not ROWS[name].measures:
        case = case._replace(mass="normalize")
    given = parameters(name, rng)
    expected = reference.exact(
        name, *arrays(name, case.p, case.q), mass=case.mass, log=case.log, repeats=case.repeats, **given
    )
    tolerance = 1e-6 if case.p.dtype in (F32, np.float16) else 1e-13
    if case.log and name == "alpha_divergence":
        # The order multiplies the error of the ratio of the masses, a float below the last digit of one.
        tolerance = max(tolerance, 1e-18 * abs(given["alpha"]))
    keywords = {"mass": case.mass, **given}
    if case.log:
        keywords["log"] = True
    for door, compute in doors(name, case):
        if door == "pairwise" and given.get("weights", (0.5, 0.5)) != (0.5, 0.5):
            continue
        try:
            value = compute({k: v for k, v in keywords.items() if door != "pairwise" or k != "weights"})
            error = off(name, case, value, expected)
        except Exception as raised:
            value, error = raised, math.inf
        if not error <= tolerance:
            yield f"{name}, {kind}, seed {seed}, {door}: {value!r}, error {error:.1e}; {keywords}; {case}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_no_case_is_wrong(name, kind):
    found = [failure for seed in range(4) for failure in failures(name, kind, seed)]
    assert not found, found[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("names", nargs="*", help="functions or kinds; all without")
    given = parser.parse_args()
    names = [name for name in EVERY if name in given.names] or EVERY
    kinds = [kind for kind in KINDS if kind in given.names] or list(KINDS)
    end, seed, cases, wrong = time.monotonic() + 60.0 * given.minutes, given.seed, 0, collections.Counter()
    while time.monotonic() < end:
        for name in names:
            for kind in kinds:
                cases += 1
                for failure in failures(name, kind, seed):
                    wrong[name, kind] += 1
                    if wrong[name, kind] <= 2:
                        print(failure, flush=True)
        seed += 1
    print(f"{cases} cases, seeds {given.seed} to {seed - 1}: {sum(wrong.values())} wrong")
    for (name, kind), count in sorted(wrong.items()):
        print(f"  {name}, {kind}: {count}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
