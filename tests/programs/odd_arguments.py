"""Calls of the functions of a room, the first argument, with ordinary arguments and then with odd ones.

Odd arguments have the same values in other types: read-only, strided, unaligned arrays, NumPy's scalars,
floats for integers. As JSON: the names that were called, the number of kernels, those with more than one
signature, and what is missing in the list of signatures of containers.
"""

import copy
import json
import pickle
import sys
from fractions import Fraction

import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

import conftest  # noqa: F401  (a kernel that no process has compiled yet is compiled by one)
import fastvi as fv
from fastvi import building
from fastvi.kernels.caching import entry_name
from fastvi.kernels.compiler import Kernel
from fastvi.kernels.discrete.registry import METRICS, ROWS

names, signatures, exported = set(), {}, {}
_compile = Dispatcher.compile


def compile_recorded(self, signature):
    name = f"{self.py_func.__module__}.{self.py_func.__qualname__}"
    # Not the thin forms of kernels, nor what calls the user's log joint, which is compiled with it.
    if name.startswith("fastvi.kernels") and "<locals>" not in name and not isinstance(self, Kernel or ()):
        text = str(signature)
        if name.startswith("fastvi.kernels.discrete"):  # its kernels are compiled for either width
            text = text.replace("Array(float32", "Array(float64")
        signatures.setdefault(name, set()).add(text)
        exported.setdefault(entry_name(self.py_func), set()).add(tuple(signature))
    return _compile(self, signature)


Dispatcher.compile = compile_recorded


class Special(np.ndarray):
    """A subclass, as other libraries have."""


def read_only(array):
    array.flags.writeable = False
    return array


def unaligned(array):
    words = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    words[...] = array
    return words


def strided(array):
    wide = np.zeros([2 * n for n in array.shape], array.dtype)[(slice(None, None, 2),) * array.ndim]
    wide[...] = array
    return wide


def array_forms(array):
    yield from (array.tolist(), read_only(array.copy()), unaligned(array), read_only(unaligned(array)))
    yield from (strided(array), read_only(strided(array)), np.asfortranarray(array), array.view(Special))
    yield from (array.astype(kind) for kind in (">f8", np.float32))
    if (array == array.round()).all():
        yield array.astype(np.int32)


def forms(name, value):
    """The value of an argument in other types."""
    if isinstance(value, np.ndarray):
        return list(array_forms(value))
    if isinstance(value, bool):
        return [np.bool_(value), int(value)]
    if isinstance(value, int):
        integers = [np.int8(value), np.int64(value)]
        if name in ("axis", "rng"):  # as in NumPy
            return integers
        return [*integers, np.array(value), float(value), np.float32(value), np.array(float(value))]
    if isinstance(value, float):
        whole = [int(value), np.int32(value)] if value == int(value) else []
        return [np.float64(value), np.float32(value), np.array(value), Fraction(value), *whole]
    if isinstance(value, tuple) and len(value) == 1:
        return [(form,) for form in forms(name, value[0])]
    return [np.str_(value)] if isinstance(value, str) else []


def calls(arguments):
    """The arguments; with each of them in each other form; with all arrays in the same form."""
    yield arguments
    for key, value in arguments.items():
        yield from ({**arguments, key: form} for form in forms(key, value))
    arrays = {key: array_forms(value) for key, value in arguments.items() if isinstance(value, np.ndarray)}
    for same in zip(*arrays.values(), strict=False):
        yield {**arguments, **dict(zip(arrays, same, strict=True))}


def call(function, *positional, then=None, **keywords):
    """Call a function in all forms, and a function of its result, if there is one; the ordinary result."""
    results = []
    for arguments in calls({**dict(enumerate(positional)), **keywords}):
        given = [arguments[k] for k in range(len(positional))]
        results.append(function(*given, **{key: arguments[key] for key in keywords}))
        if then is not None:
            then(results[-1])
    names.update((function.__name__, type(results[0]).__name__))
    return results[0]


P = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
Q = np.array([[0.5, 0.5], [0.125, 0.875], [0.25, 0.75]])


def discrete():
    for name, row in ROWS.items():
        options = {"axis": -1, "mass": "unit", "keepdims": False}
        options |= {"alpha": 0.5} if row.orders else {}
        options |= {"base": 2.0} if row.base else {}
        function, arrays = getattr(fv, name), row.arrays
        for p, q in ((P[0], Q[0]), (P, Q)):
            call(function, *(p, q)[:arrays], **options)
        few = {key: options[key] for key in ("alpha",) if key in options}
        call(function, *np.log([Q, Q])[:arrays], log=True, **few)
        for kind in (np.float64, np.float32, np.float16):
            function(*(P.astype(kind)[:, None], Q.astype(kind))[:arrays], **few)
            function(*(P[:0].astype(kind), Q[:1].astype(kind))[:arrays], **few)
    for weights in ([0.25, 0.75], np.array([0.25, 0.75], np.float32), (Fraction(1, 4), np.float16(0.75))):
        fv.js(P, Q, weights=weights)
    for threads in (1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        for function in (fv.kl, fv.entropy):
            long = np.full(1 << 18, 2.0**-18)
            for p in (long, read_only(long.copy()), np.stack([long, long])):
                function(*[p] * ROWS[function.__name__].arrays)
    call(fv.kl_grad, P[1], Q[1])
    call(fv.kl_grad, P, Q, axis=-1)
    from scipy import sparse

    for kind in (np.float64, np.float32, np.int32):
        table = sparse.csr_array((8 * P).astype(kind))
        fv.kl(table, table, mass="normalize")
        for name, row in METRICS.items():
            parameters = {"alpha": 0.5} if row.orders else {}
            fv.pairwise(table, Q, name, mass="normalize", **parameters)
    call(fv.js_many, P, np.array([0.25, 0.25, 0.5]), axis=-1, base=2.0, mass="unit")
    call(fv.mutual_information, P, mass="normalize", base=2.0)
    fv.mutual_information(P.astype(np.float32), mass="normalize")
    for name, row in METRICS.items():
        parameters = {"alpha": 0.5} if row.orders else {}
        call(fv.pairwise, P, Q, name, **parameters)
        fv.pairwise(P, None, name, **parameters)
    call(fv.pairwise, P, P, base=2.0, mass="normalize", progress=False)
    fv.pairwise(P[:0], Q)


PAIR = fv.Gaussian([1.0, 2.0], [[4.0, 1.0], [1.0, 2.0]])
MIXTURE = fv.GaussianMixture([0.25, 0.75], [[-3.0, 0.0], [3.0, 0.0]], [np.eye(2)] * 2)


def use(p):
    """What a distribution is used for."""
    p.mean, p.cov, fv.kl(p, p), fv.kl_estimate(p, PAIR), fv.kl_estimate(PAIR, p), fv.entropy_estimate(p)
    fv.m_projection(p).kl, fv.m_projection(p, "diag").kl
    if not isinstance(p, fv.Grid2D):
        fv.kl_bounds(p, PAIR), fv.mixture_entropy_bounds(p), p.logpdf([0.0, 1.0])


def copies(value):
    return copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))


def distributions():
    call(fv.Gaussian, PAIR.mean.copy(), PAIR.cov.copy(), then=use)
    call(fv.GaussianMixture, MIXTURE.weights.copy(), MIXTURE.means.copy(), MIXTURE.covs.copy(), then=use)
    x, y = np.linspace(-4.0, 4.0, 33), np.linspace(-4.0, 4.0, 17)
    grid = call(fv.Grid2D, x, y, -0.5 * (x[:, None] ** 2 + y**2), then=use)
    for low, n in zip(forms("low", -4.0), forms("n", 33), strict=False):
        use(fv.Grid2D.from_distribution(MIXTURE, [(low, 4), (low, 4)], (n, n)))
    for p in (*copies(PAIR), *copies(MIXTURE), *copies(grid), grid.normalized()):
        use(p)
    tails = call(fv.StudentT, PAIR.mean.copy(), PAIR.cov.copy(), 4.0, then=lambda q: q.sample(2))
    half = call(fv.TruncatedGaussian, 0.0, 1.0, 0.0, 2.0, then=lambda q: (q.mean, q.logpdf(1.0)))
    line = fv.Gaussian(np.array([1.0]), np.array([[4.0]]))
    simplex = call(fv.TransformedGaussian, PAIR, "simplex", 3, then=lambda q: q.sample(2))
    mixed = call(fv.TransformedMixture, MIXTURE, "simplex", 3, then=lambda q: q.sample(2))
    for low in forms("low", 0.0):
        fv.TransformedGaussian(line, ("lower", low), 1).sample(2)
    points = {
        1: np.array([[1.0], [0.5]]),
        2: np.array([[1.0, 2.0], [0.0, 1.0]]),
        3: np.array([[0.25, 0.25, 0.5]] * 2),
    }
    for p in (PAIR, MIXTURE, tails, line, half, simplex, mixed):
        call(p.logpdf, points[p.dim])
        call(p.pdf, points[p.dim][0])
        p.pdf(np.empty((0, p.dim))), p.sample(np.int32(2), np.int32(0)), p.entropy()
    call(fv.kl_estimate, MIXTURE, PAIR, rtol=2.0**-20)
    call(fv.entropy_estimate, MIXTURE, rtol=2.0**-20)
    call(fv.kl_bounds, MIXTURE, PAIR)
    call(fv.mixture_entropy_bounds, MIXTURE)


def projections():
    grid = fv.Grid2D.from_distribution(MIXTURE, shape=(65, 65))
    for p in (PAIR, MIXTURE, fv.GaussianMixture([0.25, 0.75], [-3, 3], [1, 1]), grid):
        for family in ("full", "diag", "isotropic"):
            call(fv.m_projection, p, family, then=lambda found: found.kl)
        found = call(fv.i_projection, p, "diag", rtol=2.0**-20)
        fv.i_projection(p, starts=[found.q, fv.Gaussian(found.q.mean, found.q.cov)])
    three = fv.GaussianMixture([0.25, 0.25, 0.5], [-1, 1, 9], [1, 1, 1])
    for method in ("kl", "runnalls", "williams"):
        call(
            fv.reduce_mixture, three, 2, method, tol=2.0**-20, max_iterations=100, then=lambda found: found.kl
        )
    call(lambda k: fv.m_projection(three, ("mixture", k)).kl, 2)
    call(lambda k: fv.m_projection(grid, ("mixture", k)).kl, 2)
    both = call(lambda k: fv.i_projection(three, ("mixture", k), rtol=2.0**-20), 2)
    fv.i_projection(three, ("mixture", 2), starts=[both.q])
    table = np.array([[0.375, 0.125], [0.125, 0.375]])
    call(fv.m_projection, table, "product")
    call(fv.i_projection, table, "product", rtol=2.0**-20)
    call(lambda start: fv.i_projection(table, "product", [(start, start)]), np.array([0.25, 0.75]))


def em():
    x = np.array([[0, 1], [1, 0], [2, 2], [3, 1], [10, 11], [11, 10], [12, 13], [13, 11]], float)
    counts = {"restarts": 2, "max_iterations": 100, "rng": 0, "progress": False}
    numbers = {"tol": 2.0**-30, "min_cov": 2.0**-10}
    fit = call(fv.fit_mixture, x, 2, **counts, **numbers, then=lambda fit: fit.responsibilities)
    call(fv.fit_mixture, x[:, 0], 2, **counts)
    for one in copies(fit):
        one.responsibilities, one.mixture.logpdf(x)
        call(fv.fit_mixture, x, 2, start=one.mixture)
    call(fit.decompose, np.full((8, 2), 0.5))
    prior = {"mean": np.zeros(2), "scale": np.eye(2)}
    for concentration in forms("concentration", 0.5):
        options = {"variational": True, "prior": {**prior, "concentration": concentration}}
        call(lambda points, options=options: fv.fit_mixture(points, 2, restarts=2, **options), x)
    for concentration in forms("concentration", 2):
        options = {
            "prior": {**prior, "concentration": concentration, "degrees_of_freedom": 5, "mean_precision": 1}
        }
        call(lambda points, options=options: fv.fit_mixture(points, 2, restarts=2, **options), x)


@numba.njit
def log_joint(z, x):
    total = 0.0
    for i in range(z.size):
        total -= 0.5 * z[i] ** 2 + 0.5 * (x[i] - z[i]) ** 2
    return total


@numba.njit
def log_joint_grad(z, grad, x):
    for i in range(z.size):
        grad[i] = x[i] - 2.0 * z[i]
    return log_joint(z, x)


@numba.njit
def log_joint_theta(z, theta, x):
    return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * (x[0] - z[0]) ** 2


X = np.array([1.0, 2.0, 0.5])


def models():
    """On a line, a half-line, a plane, a simplex; in three dimensions, without and with a gradient."""
    yield from (fv.Model(log_joint, 1, (X,)), fv.Model(log_joint, 1, (X,), support="positive"))
    yield from (fv.Model(log_joint, 2, (X,)), fv.Model(log_joint, 3, (X,), support="simplex"))
    yield from (fv.Model(log_joint, 3, (X,)), fv.Model(log_joint, 3, (X,), log_joint_grad=log_joint_grad))


def inference():
    auto = {"rtol": 2.0**-20, "max_steps": 20, "progress": False}
    for model in models():
        start = np.full(model.dim, 0.5) if model.support != "simplex" else np.array([0.25, 0.25, 0.5])
        q = call(fv.fit, model, "full", start, **auto, then=lambda fit: fit.psis_k).q
        small = model.latent_dim <= 2
        families = ("full", "diag", "truncated") if model.dim == 1 else ("full", "diag")
        for family in families:
            fitted = call(fv.fit, model, family, **({} if small else {"draws": 64}))
            tables = np.array([X, X])
            call(fv.fit_batch, model, (tables,), family, **auto)
            fv.fit_batch(model, (tables[:0],), family)
            fv.fit_batch(model, [(X,), (X.tolist(),)], family, start)
            fv.fit_batch(model, (tables,), family, q)
            call(fv.elbo, model, fitted.q, rtol=2.0**-20)
            call(fitted.diagnose)
            call(fitted.to_xarray, 2)
            if family in ("full", "diag"):
                call(call(fitted.linear_response).of, lambda z: z)
            fv.fit(model, start=fitted.q), fv.fit(model, family, starts=[q, start])
            if small and (family != "truncated" or model.support == "positive"):
                call(fv.decompose, model, fitted.q, rtol=2.0**-20)
        several = call(lambda k, model=model: fv.fit(model, ("mixture", k), max_steps=10), 2)
        call(fv.elbo, model, several.q, rtol=2.0**-20)
        several.diagnose()
        for one in copies(fv.fit(model)):
            fv.fit(one.model, "mean", one.q), one.sample(np.int32(2), np.int32(0))
        call(fv.fit, model, "diag", method="sgd", steps=2, rate=0.5, draws=4, rng=0, progress=False)
        call(fv.fit, model, "diag", method="sgd", steps=2, rate=1.0)
        call(fv.elbo_grad, model, q, rtol=2.0**-20)
        call(model.log_density, start)
        if small:
            call(fv.log_evidence, model, start, rtol=2.0**-20)
    call(fv.check_gradient, model, np.array([[0.5, 0.25, 1.0]]), rtol=2.0**-20, rng=0)
    call(fv.Model, log_joint, 2, (X,), then=fv.fit)
    for low in forms("low", 0.0):
        fv.fit(fv.Model(log_joint, 1, (X,), ("lower", low)))
    with_theta = call(fv.Model, log_joint_theta, 1, (X,), theta=np.array([1.0]), then=fv.fit)
    call(with_theta.with_theta, np.array([2.0]), then=fv.fit)
    options = {"rtol": 2.0**-20, "max_rounds": 5, "progress": False}
    call(fv.maximize_evidence, with_theta, "full", np.array([0.5]), **options)


globals()[sys.argv[1]]()
again = {name: sorted(several) for name, several in signatures.items() if len(several) > 1}
Dispatcher.compile = _compile
unlisted = []
for name in sorted(set(exported) & set(building.exported_kernels())):
    listed = {building.types_of(job) for job in building.jobs() if job.name == name}
    unlisted += [f"{name} {kinds}" for kinds in exported[name] - listed]
print(json.dumps({"names": sorted(names), "kernels": len(signatures), "again": again, "unlisted": unlisted}))
