"""The log evidence: compiled code says what Python says, of the value and of the error."""

import itertools
import math
from typing import Any, NamedTuple

import numba
import numpy as np
import pytest
from numba import njit, prange
from scipy import special, stats

import fastvi as fv
from fastvi import kernels
from fastvi.inference.gaps import mass_of_gaps
from fastvi.inference.kernel_calls import workspace
from fastvi.inference.model import target_of
from fastvi.inference.modes import modes_of
from fastvi.inference.saturation import evidence_error
from helpers.forms import all_plain
from helpers.posteriors import limits_of, normal_gamma

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@njit
def two(z, weight, x, y, first, second):
    """Normals around (x, y) and its mirror image, with two widths; on a line around x and -x."""
    a, b = math.log(weight), math.log(1.0 - weight)
    for i in range(z.size):
        at = x if i == 0 else y
        a -= 0.5 * ((z[i] - at) / first) ** 2 + math.log(first) + HALF_LOG_2PI
        b -= 0.5 * ((z[i] + at) / second) ** 2 + math.log(second) + HALF_LOG_2PI
    top = max(a, b)
    return top + math.log(math.exp(a - top) + math.exp(b - top))


@njit
def normals(z, weights, places, widths):
    """A mixture of normals, each with one width."""
    top, total = -math.inf, 0.0
    for k in range(weights.size):
        value = math.log(weights[k])
        for i in range(z.size):
            value -= 0.5 * ((z[i] - places[k, i]) / widths[k]) ** 2 + math.log(widths[k]) + HALF_LOG_2PI
        if value > top:
            top, total = value, total * math.exp(top - value)
        total += math.exp(value - top)
    return top + math.log(total)


@njit
def mirrored(z, x, y, width):
    """Normals around (x, y) and (y, x)."""
    a = -0.5 * (((z[0] - x) / width) ** 2 + ((z[1] - y) / width) ** 2)
    b = -0.5 * (((z[0] - y) / width) ** 2 + ((z[1] - x) / width) ** 2)
    top, volume = max(a, b), 2.0 * (math.log(width) + HALF_LOG_2PI) + math.log(2.0)
    return top + math.log(math.exp(a - top) + math.exp(b - top)) - volume


@njit
def beside_slab(z, axis, low, width):
    """A standard normal; zero in a slab."""
    if low < z[axis] < low + width:
        return -math.inf
    return -0.5 * (z * z).sum() - z.size * HALF_LOG_2PI


@njit
def beside_disc(z, x, y, radius):
    """A standard normal; zero in a disc."""
    inside = math.hypot(z[0] - x, z[1] - y) < radius
    return -math.inf if inside else -0.5 * (z * z).sum() - z.size * HALF_LOG_2PI


@njit
def beta(z, a, b):
    constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return constant + (a - 1.0) * math.log(z[0]) + (b - 1.0) * math.log1p(-z[0])


@njit
def gamma(z, a, b, low):
    return (a - 1.0) * math.log(z[0] - low) - b * (z[0] - low) + a * math.log(b) - math.lgamma(a)


@njit
def gammas(z, a, b, tilt):
    """Two, of which the logarithms are correlated."""
    x, y = math.log(z[0]), math.log(z[1])
    return (a - 1.0) * (x + y) - b * (z[0] + z[1]) - tilt * (x - y) ** 2


@njit
def dirichlet(z, a, b):
    constant = math.lgamma(2.0 * a + b) - 2.0 * math.lgamma(a) - math.lgamma(b)
    return constant + (a - 1.0) * (math.log(z[0]) + math.log(z[2])) + (b - 1.0) * math.log(z[1])


@njit
def steps(z, a):
    """A normal entry, and a gamma distribution of the distance to the next, which may round to 0."""
    distance = max(z[1] - z[0], 1e-17)
    return -0.5 * z[0] ** 2 - HALF_LOG_2PI + (a - 1.0) * math.log(distance) - distance - math.lgamma(a)


@njit
def bump(z, height):
    """It does not fall off."""
    return height * math.exp(-0.5 * (z * z).sum())


@njit
def reciprocal(z, power):
    """It falls off like a power."""
    total = 0.0
    for x in z:
        total -= power * math.log(1.0 + x * x)
    return total


@njit
def raising(z, least):
    """A standard normal that raises far out."""
    for x in z:
        if abs(x) > least:
            raise ValueError("too far")
    return -0.5 * (z * z).sum() - z.size * HALF_LOG_2PI


@njit
def raising_between(z, low, high):
    """A standard normal that raises in a slab, between all nodes."""
    if low < z[0] < high:
        raise ValueError("in the slab")
    return -0.5 * (z * z).sum() - z.size * HALF_LOG_2PI


@njit
def logistic(z, x):
    total = 0.0
    for i in range(z.size):
        total -= 0.5 * z[i] ** 2 + HALF_LOG_2PI
        for y in x:
            total += y * z[i] - math.log1p(math.exp(z[i]))
    return total


@njit
def normal(z, shift):
    total = 0.0
    for i in range(z.size):
        total -= 0.5 * (z[i] - shift * (i + 1)) ** 2 + HALF_LOG_2PI
    return total


class Case(NamedTuple):
    log_joint: Any
    dim: int
    support: Any
    data: tuple
    truth: float  #: NaN where it is not known


def slab(dim, axis, low, width):
    lost = 0.5 * (math.erf((low + width) / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    return Case(beside_slab, dim, "real", (axis, low, width), math.log1p(-lost))


UNIT = ("interval", 0.0, 1.0)

BIMODAL = {
    **{
        f"{x} {width} on a line": Case(two, 1, "real", (0.1, x, 0.0, width, width), 0.0)
        for x in (3.0, 4.0, 10.0, 30.0, 100.0)
        for width in (0.02, 0.1, 0.5, 1.0)
    },
    **{
        f"{x} {y} {width}": Case(two, 2, "real", (weight, x, y, width, width), 0.0)
        for x, y, width, weight in [
            (3.0, -3.0, 1.0, 0.1),
            (4.0, 0.0, 0.5, 0.9),
            (10.0, 10.0, 1.0, 0.5),
            (30.0, -5.0, 1.0, 0.2),
            (3.0, 3.0, 0.1, 0.1),
        ]
    },
    "mirrored": Case(mirrored, 2, "real", (4.0, -4.0, 0.5), 0.0),
    "mirrored, far": Case(mirrored, 2, "real", (12.0, 2.0, 1.0), 0.0),
    "two widths": Case(two, 1, "real", (0.3, 10.0, 0.0, 1.0, 0.1), 0.0),
}

#: One of two modes is so narrow that the lattice of both has no node in it.
NARROW = {
    f"{weight} {'narrow beside' if second < first else 'beside narrow'} in {dim}": Case(
        two, dim, "real", (weight, 4.0, 3.0, first, second), 0.0
    )
    for dim in (1, 2)
    for weight in (0.001, 0.1, 0.5, 0.9)
    for first, second in ((1.0, 1e-3), (1e-3, 1.0))
}

#: There are more of them than a lattice has places with dense nodes.
NARROW["two narrow ones in 1"] = Case(two, 1, "real", (0.5, 10.0, 3.0, 1e-3, 1e-3), 0.0)
NARROW["two narrow ones in 2"] = Case(two, 2, "real", (0.5, 10.0, 3.0, 1e-3, 1e-3), 0.0)


def mixed(weight, place, other, width, other_width):
    data = np.array([weight, 1.0 - weight]), np.array([place, other]), np.array([width, other_width])
    return Case(normals, len(place), "real", data, 0.0)


#: No search leads to the second mode from afar: the joint is that of the first, to rounding.
BETWEEN = {
    "2.3 away": mixed(0.1, [0.0], [2.3], 1.0, 1e-3),
    "10 away": mixed(0.8, [-4.03], [1.75], 0.545, 0.011),
    "20 away": mixed(0.45, [0.5], [-5.85], 0.32, 0.0107),
    "600 away": mixed(0.291, [-0.24], [-4.4], 0.00674, 0.00064),
    "within the other": mixed(0.4, [0.0], [0.3], 1.0, 0.002),
    "within the other in the plane": mixed(0.4, [0.0, 0.0], [0.2, -0.3], 1.0, 0.03),
    "1.4 away in the plane": mixed(0.5, [0.0, 0.0], [1.0, -1.0], 1.0, 0.03),
    "40 away in the plane": mixed(0.931, [1.63, 1.4], [2.73, -2.67], 0.107, 0.02867),
    "80 away in the plane": mixed(0.763, [-3.89, -0.23], [1.66, 2.43], 0.07731, 0.01093),
}

GAPS = {
    **{f"slab {low}": slab(1, 0, low, 0.02) for low in (-1.5, -0.338, 0.0103, 1.4)},
    **{f"thin slab {low}": slab(1, 0, low, 0.006) for low in (-2.21, 0.177, 1.45)},
    **{
        f"slab {a} {low}": slab(2, a, low, 0.02)
        for a, low in ((0, 1.253), (0, -1.887), (1, 0.166), (1, -0.465))
    },
    "disc": Case(beside_disc, 2, "real", (0.7, -0.2, 0.1), math.nan),
    "half line": slab(1, 0, 0.7, 1e9),
    "other half line": slab(1, 0, -(2.0**30), 2.0**30 - 0.75),
    "half plane": slab(2, 1, 0.7, 1e9),
}

BOUNDED = {
    **{
        f"beta {a} {b}": Case(beta, 1, UNIT, (a, b), 0.0)
        for a, b in ((0.1, 0.02), (3.65, 0.0526), (2.0, 0.1))
    },
    "beta inside": Case(beta, 1, UNIT, (3.0, 4.0), 0.0),
    "gamma": Case(gamma, 1, "positive", (0.0126, 6.0, 0.0), 0.0),
    "gamma inside": Case(gamma, 1, "positive", (3.0, 6.0, 0.0), 0.0),
    "gamma above": Case(gamma, 1, ("lower", 1e6), (0.05, 1.0, 1e6), 0.0),
    "gammas": Case(gammas, 2, "positive", (0.05, 1.0, 0.01), math.nan),
    "dirichlet": Case(dirichlet, 3, "simplex", (0.02, 2.0), 0.0),
    "dirichlet inside": Case(dirichlet, 3, "simplex", (3.0, 4.0), 0.0),
    "ordered": Case(steps, 2, "ordered", (0.04,), 0.0),
}

SMOOTH = {
    "normal": Case(normal, 1, "real", (5.0,), 0.0),
    "normal in the plane": Case(normal, 2, "real", (2.0,), 0.0),
    "logistic": Case(logistic, 1, "real", (np.r_[np.ones(12), np.zeros(8)],), math.nan),
    "power": Case(reciprocal, 1, "real", (1.0,), math.log(math.pi)),
    "raises far out": Case(raising, 1, "real", (60.0,), 0.0),
    "raises far out in the plane": Case(raising, 2, "real", (60.0,), 0.0),
    "raises in the disc": Case(raising_between, 2, "real", (2.5003, 2.5007), 0.0),
}

IMPROPER = {
    "bump": Case(bump, 1, "real", (5.0,), math.inf),
    "bump in the plane": Case(bump, 2, "real", (5.0,), math.inf),
    "slow power": Case(reciprocal, 1, "real", (0.5,), math.inf),
}

CASES = {**BIMODAL, **NARROW, **BETWEEN, **GAPS, **BOUNDED, **SMOOTH, **IMPROPER}


@njit
def run(model):
    found = fv.log_evidence(model)
    return found.value, found.error, found.evaluations


def model_of(case):
    return fv.Model(case.log_joint, case.dim, case.data, case.support)


def first_of(model):
    """The first mode of a model."""
    return modes_of(model, None)[0][0]


@pytest.mark.parametrize("name", CASES)
def test_compiled_code_says_what_python_says(name):
    """Of 0.1 N(-10, 1) + 0.9 N(10, 1) compiled code said -0.105360 with an error of 1e-14, and Python 0."""
    case = CASES[name]
    model = model_of(case)
    own = fv.log_evidence(model)
    value, error, evaluations = run(model)
    assert (value, error, evaluations) == (own.value, own.error, own.evaluations)
    if case.truth == math.inf:
        assert (value, error) == (math.inf, math.inf)
    elif not math.isnan(case.truth):
        assert abs(value - case.truth) <= error


@pytest.mark.parametrize("name", BIMODAL)
def test_both_modes_are_found(name):
    """The first search may end on a saddle between them, which has no mass."""
    model = model_of(BIMODAL[name])
    assert sum(mode.log_mass > -3.0 for mode in modes_of(model, None)[0]) == 2
    value, error, evaluations = run(model)
    assert abs(value) <= error < 1e-12
    assert evaluations < 100_000  # on one lattice for both up to 1,400,000


@pytest.mark.parametrize("name", NARROW)
def test_a_mode_that_is_narrow_beside_another(name):
    """Of 0.1 N(4, 1) + 0.9 N(-4, 0.001^2) the log evidence was -2.30 with an error of 2e-14."""
    value, error, _ = run(model_of(NARROW[name]))
    assert abs(value) <= error < 1e-10


@pytest.mark.parametrize("name", BETWEEN)
def test_a_mode_that_points_find_and_no_search(name):
    """Of 0.1 N(0, 1) + 0.9 N(2.3, 0.001^2) the log evidence was -2.30 with an error of 2e-14."""
    model = model_of(BETWEEN[name])
    assert len(modes_of(model, None)[0]) == 2
    value, error, _ = run(model)
    assert abs(value) <= error < 1e-10


def peaks_of_rings(steps, heights):
    """Which points are higher than those beside them in their ring and in the next ones."""
    groups = itertools.groupby(np.arange(len(steps)), lambda n: np.linalg.norm(steps[n]).round(6))
    rings, peaks = [np.array([*ring]) for _, ring in groups], np.zeros(len(steps), bool)
    turns = [np.arctan2(steps[ring, 1], steps[ring, 0]) / (2.0 * np.pi) % 1.0 for ring in rings]
    for own, ring in enumerate(rings):
        for k, n in enumerate(ring):
            beside = [ring[k - 1], ring[(k + 1) % ring.size]]
            for i in {max(own - 1, 0), min(own + 1, len(rings) - 1)} - {own}:
                after = (turns[i] - turns[own][k] - 1e-9) % 1.0
                beside += [rings[i][after.argmin()], rings[i][after.argmax()]]
            peaks[n] = heights[n] > heights[beside].max()
    return peaks


@pytest.mark.parametrize("seed", range(20))
def test_points_that_the_modes_do_not_explain(seed):
    """Against densities in scipy: the highest that is not near one that was tried."""
    rng, dim, known = np.random.default_rng(seed), 1 + seed % 2, kernels.inference.modes
    found, survey = random_modes(rng, 3, dim), kernels.inference.survey
    steps = survey.LINE[:, None] if dim == 1 else survey.PLANE.T
    points = found.means[0] + steps @ found.factors[0].T
    logs = np.array(
        [
            log_mass + stats.multivariate_normal(mean, factor @ factor.T).logpdf(points)
            for mean, factor, log_mass in zip(*found, strict=True)
        ]
    )
    heights = logs.max(axis=0) + rng.normal(0.0, 2.0, len(points))
    tops = [
        log_mass - np.log(factor.diagonal()).sum() - dim * HALF_LOG_2PI
        for _, factor, log_mass in zip(*found, strict=True)
    ]
    new = heights > logs.max(axis=0) + (known.RISE if dim == 1 else known.RISE_IN_PLANE)
    new[[0, -1]] = False
    if dim == 1:
        new[1:-1] &= (heights[:-2] < heights[1:-1]) & (heights[1:-1] >= heights[2:])
    else:
        new[: survey.IN_DISC] &= heights[: survey.IN_DISC] > max(tops) - known.NEGLIGIBLE
        left = np.where(new, heights, -np.inf)[survey.IN_DISC :]
        new[survey.IN_DISC :] &= peaks_of_rings(steps[survey.IN_DISC :], left)
    tried = []
    for _ in range(4):
        one = kernels.inference.entry_points.unexplained(tuple(found), heights, np.array(tried, np.int64))
        assert one == np.flatnonzero(new)[heights[new].argmax()]
        tried.append(one)
        near = np.arange(len(points)) == one
        if dim == 2:
            near |= np.linalg.norm(steps - steps[one], axis=1) < known.APART * np.linalg.norm(steps, axis=1)
        new &= ~near


def test_nothing_is_left_to_explain():
    found = kernels.inference.modes.Modes(np.zeros((1, 1)), np.ones((1, 1, 1)), np.zeros(1))
    heights = -0.5 * kernels.inference.survey.LINE**2 - HALF_LOG_2PI
    assert kernels.inference.entry_points.unexplained(tuple(found), heights, np.empty(0, np.int64)) == -1


@njit
def students(z, weights, means, widths):
    """A mixture of t distributions with three degrees of freedom."""
    total = 0.0
    for k in range(means.size):
        total += weights[k] * (1.0 + ((z[0] - means[k]) / widths[k]) ** 2 / 3.0) ** -2 / widths[k]
    return math.log(total) + math.log(2.0 / (math.pi * math.sqrt(3.0)))


def test_tails_of_narrow_modes():
    """Of millions of nodes the tails rounded away one by one: -1.3e-12 with an error of 5e-13."""
    data = np.array([0.2, 0.3, 0.5]), np.array([8.9, 0.006, -10.0]), np.array([0.0017, 0.0012, 0.026])
    found = fv.log_evidence(fv.Model(students, 1, data), data[1][:1])
    assert found.evaluations > 1e6
    assert abs(found.value) <= found.error < 1e-12


@njit
def student_and_normal(z, weight, place, width, other, other_width):
    """A t distribution with three degrees of freedom, and a normal one."""
    x, y = (z[0] - place) / width, (z[0] - other) / other_width
    a = math.log(weight) - 2.0 * math.log1p(x * x / 3.0) - math.log(width)
    a += math.log(2.0 / (math.pi * math.sqrt(3.0)))
    b = math.log(1.0 - weight) - 0.5 * y * y - HALF_LOG_2PI - math.log(other_width)
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def test_a_mode_that_is_130_deviations_away():
    """The tails of the other one hide it: the log evidence was -4.8 with an error of 5e-12."""
    value, error, _ = run(fv.Model(student_and_normal, 1, (0.00818, 2.99, 0.05356, -3.92, 0.01809)))
    assert abs(value) <= error < 1e-10


@njit
def logistic_and_t(z, weight, place, width, other, other_width):
    """A logistic distribution, and t with three degrees of freedom."""
    x, y = abs(z[0] - place) / width, (z[0] - other) / other_width
    a = math.log(weight) - x - 2.0 * math.log1p(math.exp(-x)) - math.log(width)
    b = math.log(1.0 - weight) - 2.0 * math.log1p(y * y / 3.0) - math.log(other_width)
    b += math.log(2.0 / (math.pi * math.sqrt(3.0)))
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@pytest.mark.parametrize(
    "data",
    [(0.87052, -4.42594, 0.91175, -0.645402, 0.0140951), (0.248223, -0.95521, 1.7001927, 4.743587, 0.0135)],
)
def test_tails_that_begin_beyond_the_lattice(data):
    """The outer shells are of the logistic tail: -1.8e-11 with an error of 9e-14."""
    found = fv.log_evidence(fv.Model(logistic_and_t, 1, data))
    assert abs(found.value) <= found.error < 1e-11


@njit
def sloping_funnel(z, sd, slope):
    x, log_square = z[0] - slope * z[1], z[1]
    a = -0.5 * (log_square / sd) ** 2 - math.log(sd) - HALF_LOG_2PI
    return a - 0.5 * log_square - HALF_LOG_2PI - 0.5 * x * x * math.exp(-log_square)


@njit
def sheared_students(z, one, other, width, shear):
    """Two t distributions; the second coordinate is `shear` times the first, and `width` times one."""
    x, y = z[0], (z[1] - shear * z[0]) / width
    a = math.lgamma(0.5 * (one + 1.0)) - math.lgamma(0.5 * one) - 0.5 * math.log(one * math.pi)
    b = math.lgamma(0.5 * (other + 1.0)) - math.lgamma(0.5 * other) - 0.5 * math.log(other * math.pi)
    a -= 0.5 * (one + 1.0) * math.log1p(x * x / one)
    b -= 0.5 * (other + 1.0) * math.log1p(y * y / other)
    return a + b - math.log(width)


CURVED = [
    (normal_gamma, (0.8295, 45.12, 47.33, 0.0), 1e-10),
    (normal_gamma, (0.53955, 4.568, 1.0224, 13.575), 1e-7),
    (normal_gamma, (0.62003, 3.316, 0.15002, 0.067932), 1e-10),
    (normal_gamma, (0.61914, 22.195, 1.1261, 7.0079), 1e-10),
    (sloping_funnel, (1.4645455282866673, -0.2539025640369408), 1e-5),
    (sloping_funnel, (3.1091, 0.23035), 0.01),
    (sheared_students, (2.2380295185671417, 1.5810406492777178, 0.5397075770071781, 1.983718217148674), 1e-3),
    (sheared_students, (1.234, 4.0863, 1.1481, 0.11633), 1e-3),
]


@pytest.mark.parametrize(("log_joint", "data", "most"), CURVED)
def test_powers_that_are_curved_or_oblique(log_joint, data, most):
    """Nodes along such a tail are rare: sums were off by 5e-6 with errors of 6e-8, or nothing was known."""
    support = ["real", "positive"] if log_joint is normal_gamma else "real"
    found = fv.log_evidence(fv.Model(log_joint, 2, data, support=support))
    assert abs(found.value) <= found.error + 1e-13
    assert found.error <= most


@njit
def masses_beyond(log_joint, problem, mean, factor, reach, part, space):
    kernels.inference.evidence._beyond(log_joint, problem, mean, factor, reach, part, space)
    return np.exp(space.beyond)


@njit
def student_in_the_plane(z, width):
    return -2.5 * math.log1p((z[0] ** 2 + z[1] ** 2) / (3.0 * width * width)) - 2.0 * math.log(width)


@pytest.mark.parametrize("dim", [1, 2])
def test_mass_beyond_a_reach(dim):
    """Of t with three degrees of freedom, beyond a reach on each axis, against scipy."""
    known, width = kernels.inference.evidence, 0.3
    none = kernels.inference.modes.Modes(np.zeros((1, dim)), np.ones((1, dim, dim)), np.zeros(1))
    part, space = known.Part(none, known.WHOLE, known.NONE), known.workspace(dim, dim)
    bounds = np.zeros(dim, np.int64), np.zeros((dim, 2))
    mean, factor = np.linspace(1.0, 2.0, dim), np.diag(np.linspace(1.0, 2.0, dim))
    for reach in (3.0, 4.5, 8.0):
        reaches = np.full(dim, reach)
        size = factor.diagonal() * np.sinh(reaches)
        if dim == 1:
            data, t = (np.ones(1), np.zeros(1), np.array([width])), stats.t(3, scale=width)
            problem = kernels.models.evaluation.Problem(data, *bounds)
            masses = masses_beyond(students, problem, mean, factor, reaches, part, space)
            exact = t.sf(size[0] - mean[0]) + t.sf(size[0] + mean[0])
            assert masses == pytest.approx([exact], rel=0.05)
            continue
        problem = kernels.models.evaluation.Problem((width,), *bounds)
        masses = masses_beyond(student_in_the_plane, problem, mean, factor, reaches, part, space)
        # Far out the density is a power, of which the mass beyond an edge is an integral over angles.
        angles = 2.0 * math.pi * (np.arange(100_000) + 0.5) / 100_000
        edges = size[:, None] / abs(np.array([np.cos(angles), np.sin(angles)]))
        around, *exact = (
            (3.0**2.5 * width**3 / (3.0 * edge**3)).mean() * 2.0 * math.pi
            for edge in (edges.min(axis=0), *edges)
        )
        assert 0.7 * around < masses.sum() < 1.5 * around
        assert (0.45 * np.array(exact) < masses).all()
        assert (masses < 1.5 * np.array(exact)).all()


def test_tails_beyond_modes_that_are_far_from_each_other():
    """Where the lattice of the narrowest mode ended near the others, -9e-10 with an error of 4e-13."""
    weights = np.array([0.15389376, 0.13312059, 0.71298565])
    means, widths = (
        np.array([15.43365523, 2.00353701, -17.58507808]),
        np.array([4.6504e-4, 5.92697e-3, 0.05765696]),
    )
    data = weights, means, widths
    found = fv.log_evidence(fv.Model(students, 1, data), means[:1])
    assert abs(found.value - math.log(weights.sum())) <= found.error < 1e-9


@njit
def far_normal(z, mean, width):
    total = 0.0
    for x in z:
        total -= 0.5 * ((x - mean) / width) ** 2 + math.log(width) + HALF_LOG_2PI
    return total


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("width", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("mean", [1.0, 1e2, 1e4, 1e6])
def test_nodes_that_round(mean, width, dim):
    """N(100, 0.01^2) had the log evidence -9.1e-14 with an error of 7.6e-14."""
    found = fv.log_evidence(fv.Model(far_normal, dim, (mean, width)), np.full(dim, mean))
    assert abs(found.value) <= found.error < 2e-16 * mean / width + 1e-12


@pytest.mark.parametrize("dim", [1, 2])
def test_modes_of_any_width(dim):
    """Where all were found, the log evidence is that of all."""
    rng, exact = np.random.default_rng(3 + dim), 0
    for _ in range(30 // dim**2):
        places, widths = rng.uniform(1.0, 10.0, 2), 10.0 ** rng.uniform(-3.0 / dim**2, 0.0, 2)
        weight = float(rng.uniform(0.05, 0.95))
        value, error, _ = run(fv.Model(two, dim, (weight, *places, *widths)))
        lacks = [math.log(weight), math.log1p(-weight)]  # a mode that no search finds
        assert min(abs(value - truth) for truth in (0.0, *lacks)) <= error
        exact += abs(value) <= error < 1e-6
    assert exact >= 20 // dim**2


def by_modes(model, means, factors, log_masses, rtol=1e-10):
    """The kernel with modes that are given: (value, error)."""
    found = np.array(means), np.array(factors), np.array(log_masses)
    mean, factor = np.empty(model.latent_dim), np.empty((model.latent_dim, model.latent_dim))
    space = workspace("evidence", model.latent_dim, model.dim)
    run = kernels.inference.entry_points.log_evidence
    _, value, error, _ = run(target_of(model), found, rtol, mean, factor, space)
    return value, error


@njit
def needle(z, weight, width):
    """Between normals around -4 and 4, and not found."""
    total = 0.5 * (1.0 - weight) * (math.exp(-0.5 * (z[0] - 4.0) ** 2) + math.exp(-0.5 * (z[0] + 4.0) ** 2))
    return math.log(total + weight * math.exp(-0.5 * (z[0] / width) ** 2) / width) - HALF_LOG_2PI


@njit
def three(z, weight, x, width):
    """Normals of width 0.3 around -10 and 10, and one between them."""
    total = 0.5 * (1.0 - weight) * (math.exp(-0.5 * ((z[0] - 10.0) / 0.3) ** 2) / 0.3)
    total += 0.5 * (1.0 - weight) * (math.exp(-0.5 * ((z[0] + 10.0) / 0.3) ** 2) / 0.3)
    return math.log(total + weight * math.exp(-0.5 * ((z[0] - x) / width) ** 2) / width) - HALF_LOG_2PI


def test_a_mode_that_no_search_found_is_seen_by_the_lattice_of_the_rest():
    """It lies between nodes whose steps in t are 0.25, and those of the lattice that is shifted."""
    modes = [[10.0], [-10.0]], [[[0.3]], [[0.3]]], [math.log(0.35)] * 2
    value, error = by_modes(fv.Model(three, 1, (0.3, 10.0 * math.sinh(0.173), 0.09)), *modes)
    assert abs(value) <= error < 1e-10


def test_what_lattices_contradict_each_other_in_is_in_the_error():
    """The frame of all modes has a node in the needle, those of the parts have none."""
    model, modes = fv.Model(needle, 1, (0.3, 1e-4)), ([[4.0], [-4.0]], [[[1.0]], [[1.0]]])
    masses = [math.log(0.35), math.log(0.35)]
    value, error = by_modes(model, *modes, masses)
    assert abs(value) <= error
    assert error == pytest.approx(-math.log(0.7), rel=1e-6)


def test_a_mode_beyond_the_lattice_is_in_the_error():
    far = [[5.0], [2e30], [-2e30]], [[[1.0]], [[1e-3]], [[1e-3]]], [0.0, -3.0, -4.0]
    value, error = by_modes(model_of(SMOOTH["normal"]), *far)
    missed = kernels.inference.partition.MOST_MASS * (math.exp(-3.0) + math.exp(-4.0))
    assert value == pytest.approx(0.0, abs=1e-12)
    assert error > math.log1p(missed)


def test_modes_without_the_mass_they_are_said_to_have():
    """Where the lattice may miss more than it finds, nothing is known."""
    far = [[5.0], [1e28], [2e28]], [[[1.0]], [[1.0]], [[1.0]]], [0.0, 0.0, 0.0]
    _, error = by_modes(model_of(SMOOTH["normal"]), *far)
    assert error == math.inf


def random_modes(rng, count, dim):
    factors = np.tril(rng.normal(size=(count, dim, dim)))
    factors[:, range(dim), range(dim)] = 10.0 ** rng.uniform(-1.5, 0.5, (count, dim))
    return kernels.inference.modes.Modes(4.0 * rng.normal(size=(count, dim)), factors, rng.normal(size=count))


@pytest.mark.parametrize("seed", range(20))
def test_parts_end_within_their_lattices(seed):
    """Where a mode has more than the rest, points are within the reach that its lattice starts with."""
    rng, dim, known = np.random.default_rng(seed), 1 + seed % 2, kernels.inference.partition
    found = random_modes(rng, 3, dim)
    mean, factor = np.empty(dim), np.empty((dim, dim))
    kernels.inference.modes.frame(found.means, found.factors, mean, factor)
    # Plain, as they take five seconds to compile.
    parts = all_plain(known.with_rest)(found, mean, factor)
    reach_of_part = all_plain(known.reach_of_part)
    for n in range(3):
        reach = reach_of_part(parts, n, np.empty(dim), np.empty(dim))
        directions = rng.normal(size=(100, dim))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        steps = np.linspace(0.0, 1.5 * np.sinh(reach), 100)[:, None, None] * directions
        points = found.means[n] + steps @ found.factors[n].T
        own, rest = (
            parts.log_masses[k]
            + stats.multivariate_normal(parts.means[k], parts.factors[k] @ parts.factors[k].T).logpdf(points)
            for k in (n, 3)
        )
        farthest = np.linalg.norm(steps[own.reshape(100, 100) > rest.reshape(100, 100)], axis=-1).max()
        assert 0.3 * np.sinh(reach) < farthest <= np.sinh(reach)


@pytest.mark.parametrize("dim", [1, 2])
def test_shares_of_the_parts(dim):
    """Against Bayes' rule in scipy; they sum to 1."""
    rng, known = np.random.default_rng(dim), kernels.inference.evidence
    parts = random_modes(rng, 3, dim)
    parts.log_masses[2] -= 30.0
    for point in 4.0 * rng.normal(size=(50, dim)):
        logs = [
            log_mass + stats.multivariate_normal(mean, factor @ factor.T).logpdf(point)
            for mean, factor, log_mass in zip(*parts, strict=True)
        ]
        total = special.logsumexp(logs)
        found = np.array([known.log_share(parts, n, point, np.empty(dim)) for n in range(3)])
        np.testing.assert_allclose(found[:, 0], logs - total, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(found[:, 1], total, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_what_a_lattice_may_miss_of_a_gaussian(seed):
    """Poisson's formula against sums over shifted lattices in numpy."""
    rng, dim = np.random.default_rng(seed), 1 + seed % 2
    frame_factor, factor = (np.tril(rng.normal(size=(dim, dim))) for _ in range(2))
    for matrix in (frame_factor, factor):
        matrix[np.diag_indices(dim)] = rng.uniform(0.3, 2.0, dim)
    place = rng.normal(size=dim)
    vectors = frame_factor * np.cosh(np.arcsinh(place))

    def points(axis):
        return np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)

    nodes = points(np.arange(-80.0, 81.0))
    waves = nodes[np.any(nodes != 0.0, axis=1)] @ np.linalg.solve(vectors, factor)
    step = np.linalg.norm(waves, axis=1).min() / rng.uniform(0.2, 0.8)
    found = kernels.inference.partition.coarseness(frame_factor, place, step, factor)
    off = 0.0
    for shift in points(np.arange(0.0, 1.0, 0.125)):
        x = np.linalg.solve(factor, step * vectors @ (nodes + shift).T)
        total = np.exp(-0.5 * (x**2).sum(axis=0)).sum() * (2.0 * math.pi) ** (-0.5 * dim)
        off = max(off, abs(total * abs(np.linalg.det(step * vectors) / np.linalg.det(factor)) - 1.0))
    assert 0.3 * found <= off
    assert off <= 1.1 * found or found == 1.0


def mass_by_points(model, mode, log_total):
    """`mass_of_gaps` in numpy."""
    known, (mean, factor, _) = kernels.inference.survey, mode

    def log_density(steps):
        logs = model._tabulate(np.ascontiguousarray(mean + steps @ factor.T))[0]
        return np.where(np.isfinite(logs), logs, -math.inf)

    if mean.size == 1:
        steps = known.LINE[:, None]
        logs = log_density(steps)
        at = np.flatnonzero(logs > -math.inf)
        beside = np.diff(at) > 1
        widths = factor[0, 0] * (steps[at[1:], 0] - steps[at[:-1], 0])
        heights = np.exp(np.maximum(logs[at[1:]], logs[at[:-1]]) - log_total)
        return (widths * heights)[beside].sum()
    steps = known.PLANE[:, : known.IN_DISC].T
    steps = steps[log_density(steps) == -math.inf]
    outward = steps + 0.5 * steps / np.linalg.norm(steps, axis=1)[:, None]
    logs = log_density(outward)
    rise = 0.5 * (outward**2 - steps**2).sum(axis=1)
    area = math.pi * known.REACH_IN_PLANE**2 / known.IN_DISC * factor.diagonal().prod()
    count = np.count_nonzero(logs > -math.inf)
    return np.exp(logs + rise - log_total).sum() * area * (1.0 + 2.0 / math.sqrt(count)) if count else 0.0


@pytest.mark.parametrize("name", GAPS)
def test_gaps_are_in_the_error(name):
    """The error was 1e-14 where no node of the lattice is in a gap."""
    model = model_of(GAPS[name])
    ((first, *_), heights), (value, error, _) = modes_of(model, None), run(model)
    mass = mass_of_gaps(model, first.mean, first.factor, heights, value)
    assert mass == pytest.approx(mass_by_points(model, first, value), rel=1e-9)
    assert error >= -math.log1p(-mass)
    assert error > 1e-6
    assert (mass > 1e-4) == ("half" not in name)


@pytest.mark.parametrize("name", [*BIMODAL, *SMOOTH])
def test_no_gaps(name):
    model = model_of(CASES[name])
    (first, *_), heights = modes_of(model, None)
    assert mass_of_gaps(model, first.mean, first.factor, heights, 0.0) == 0.0


@pytest.mark.parametrize("name", BOUNDED)
def test_what_is_lost_near_bounds_is_in_the_error(name):
    model = model_of(BOUNDED[name])
    value, error, _ = run(model)
    lost = evidence_error(model, first_of(model).mean, value)
    assert error >= lost
    assert (lost > 1e-12) == ("inside" not in name and name != "gammas")
    assert lost == pytest.approx(lost_by_lines(model, first_of(model).mean), rel=1e-9, abs=1e-20)


def lost_by_lines(model, mean):
    """The same in numpy."""
    known, total, latent = kernels.inference.saturation, 0.0, mean.size
    limits = limits_of(model._support)

    def log_density(x, i):
        points = np.tile(mean, (len(x), 1))
        points[:, i] = x
        z, jacobian = model._support.to_model(points)
        with np.errstate(all="ignore"):
            logs = model._tabulate(z)[0]
        return np.where(np.isfinite(logs), logs + jacobian, -math.inf)

    for i, side in itertools.product(range(latent), range(2)):
        end, inside = limits[i][side], 1.0 - 2.0 * side
        if not math.isfinite(end):
            continue
        at_end, further_in = log_density(np.array([end, end + known.STEP * inside]), i)
        slope = (further_in - at_end) / known.STEP
        if not slope > 0.0 or at_end == -math.inf:
            continue
        x = end + inside * np.linspace(0.0, known.LINE, known.LINE_POINTS)
        logs = np.where(abs(x) <= kernels.models.evaluation.FARTHEST, log_density(x, i), -math.inf)
        mass = np.exp(logs - logs.max()).sum() * (known.LINE / (known.LINE_POINTS - 1))
        total += math.exp(min(at_end - logs.max(), 0.0)) * abs(1.0 / slope - 1.0) / mass
    return known.SAFETY * total


def test_log_joints_that_raise():
    """Where the lattice has nodes nothing is known, and Python raises."""
    for dim in (1, 2):
        model = fv.Model(raising, dim, (5.0,))
        value, error, _ = run(model)
        assert math.isnan(value)
        assert error == math.inf
        with pytest.raises(ValueError, match="too far"):
            fv.log_evidence(model)


ROWS = np.array([[0.1, 10.0, 1.0], [0.5, 3.0, 1.0], [0.9, 30.0, 0.5], [0.3, 100.0, 0.1]])


def loop(parallel):
    @njit(parallel=parallel)
    def of_rows(rows):
        found = np.empty((len(rows), 2))
        for n in prange(len(rows)):
            weight, x, width = rows[n, 0], rows[n, 1], rows[n, 2]
            one = fv.log_evidence(fv.Model(two, 1, (weight, x, 0.0, width, width)))
            found[n, 0], found[n, 1] = one.value, one.error
        return found

    return of_rows


def test_models_that_are_made_in_compiled_code():
    found = loop(False)(ROWS)
    for (value, error), (weight, x, width) in zip(found.tolist(), ROWS.tolist(), strict=True):
        own = fv.log_evidence(fv.Model(two, 1, (weight, x, 0.0, width, width)))
        assert (value, error) == (own.value, own.error)
    np.testing.assert_array_equal(loop(True)(ROWS), found)


@pytest.mark.parametrize("dim", [1, 2])
def test_starts_of_the_search(dim):
    known, mean = kernels.inference.modes, np.array([2.0, -5.0])[:dim].copy()
    factor = np.array([[0.5, 0.0], [0.25, 2.0]])[:dim, :dim].copy()
    found = np.empty((known.starts_of(dim), dim))
    kernels.inference.entry_points.mode_starts(mean, factor, found)
    directions = [np.array(d, float) for d in itertools.product((-1.0, 0.0, 1.0), repeat=dim) if any(d)]
    wanted = [mean + s * factor @ d for s in (4.0, 16.0, 64.0) for d in directions]
    wanted += [s * d for s in (1.0, 5.0, 25.0) for d in directions]
    np.testing.assert_array_equal(found, [*wanted, -mean, mean[::-1]])


@pytest.mark.parametrize("name", ["10.0 1.0 on a line", "30.0 -5.0 1.0", "mirrored, far"])
def test_the_frame_of_several_modes(name):
    modes, _ = modes_of(model_of(BIMODAL[name]), None)
    means, factors = np.array([m.mean for m in modes]), np.array([m.factor for m in modes])
    mean, factor = np.empty_like(means[0]), np.empty_like(factors[0])
    kernels.inference.modes.frame(means, factors, mean, factor)
    cov = np.cov(means.T, bias=True) + np.mean(factors @ factors.swapaxes(1, 2), axis=0)
    np.testing.assert_allclose(mean, means.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(factor @ factor.T, cov, rtol=1e-12, atol=1e-12)
    kernels.inference.modes.frame(means[:1], factors[:1], mean, factor)
    np.testing.assert_array_equal(mean, means[0])
    np.testing.assert_array_equal(factor, factors[0])


@pytest.mark.parametrize(
    "name", [*BETWEEN, "10.0 1.0 on a line", "3.0 -3.0 1.0", "disc", "beta inside", "normal"]
)
def test_models_whose_calls_are_expensive(name, monkeypatch):
    """Python searches for their modes itself, in step, and finds the same."""
    model = model_of(CASES[name])
    (modes, heights), found = modes_of(model, None), fv.log_evidence(model)
    monkeypatch.setattr(fv.Model, "_calls_are_expensive", True)
    also, others = modes_of(model, None)
    np.testing.assert_allclose(others, heights, rtol=0.02)  # the modes are those of two searches
    assert len(also) == len(modes)
    for one, other in zip(modes, also, strict=True):
        np.testing.assert_allclose(one.mean, other.mean, atol=0.1 * one.factor.max())
        assert one.log_mass == pytest.approx(other.log_mass, abs=0.05)
    again = fv.log_evidence(model)
    assert abs(again.value - found.value) <= again.error + found.error
    assert (again.error < 1e-10) == (found.error < 1e-10)
