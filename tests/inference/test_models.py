"""Models: how data are passed, what is refused, copies and pickles, and that nothing is compiled twice."""

import copy
import gc
import math
import pickle
import weakref

import numba
import numpy as np
import pytest

import fastvi as fv
from fastvi import kernels
from fastvi.inference import compilation, packing
from helpers.forms import compiled_only
from helpers.messages import says
from helpers.programs import run_program


@numba.njit
def everything(z, flag, count, scale, vector, matrix, small):
    s = -0.5 * z[0] ** 2 + (1.0 if flag else 2.0) + count * scale
    for i in range(vector.size):
        s += vector[i] * (i + 1)
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            s += matrix[i, j] * (10 * i + j)
    return s + small[1]


@numba.njit
def shifted(z, x):
    return -0.5 * (z[0] - x) ** 2


@numba.njit
def with_theta(z, theta, x):
    return -0.5 * (z[0] - theta[0]) ** 2 - 0.5 * ((x - z[0]) / theta[1]) ** 2 - math.log(theta[1])


@numba.njit
def gradient(z, grad, x):
    grad[0] = x - z[0]
    return -0.5 * (z[0] - x) ** 2


@numba.njit
def squares(z):
    return -0.5 * (z * z).sum()


@numba.njit
def writes(z, x):
    z[0] = x
    return x


@numba.njit
def wrong_type(z, x):
    return x + "one"


def engine_signatures():
    found = {}
    for name in dir(kernels.inference.entry_points):
        function = getattr(kernels.inference.entry_points, name)
        if isinstance(function, numba.core.registry.CPUDispatcher) and function.signatures:
            found[name] = len(function.signatures)
    return found


def test_each_item_of_data_arrives():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3, 4))
    data = (True, 3, 0.25, np.arange(5.0), matrix, np.array([1, -7], np.int8))
    at_zero = everything(np.zeros(1), *data)
    # E[-z**2 / 2] = -1/2 under q, the entropy is that of N(0, 1), and the rest is a constant.
    expected = at_zero - 0.5 + 0.5 * (1 + math.log(2 * math.pi))
    assert abs(fv.elbo(fv.Model(everything, 1, data), fv.Gaussian(0, 1)).value - expected) <= 1e-9 * abs(
        expected
    )
    # Rows that are not contiguous, other byte orders, lists and 0-d arrays are the same data.
    odd = (
        True,
        np.int32(3),
        np.float32(0.25),
        [0.0, 1.0, 2.0, 3.0, 4.0],
        np.asfortranarray(matrix)[:, :],
        data[5],
    )
    swapped = (*odd[:4], matrix.astype(">f8"), np.array([1, 0, -7, 0], np.int8)[::2])
    for other in (odd, swapped):
        model = fv.Model(everything, 1, other)
        assert model._types == fv.Model(everything, 1, data)._types
        assert abs(fv.elbo(model, fv.Gaussian(0, 1)).value - expected) <= 1e-9 * abs(expected)
    packed = np.zeros(17, np.uint8)
    unaligned = packed[1:].view(np.float64)
    assert not unaligned.flags.aligned
    assert packing.pack((unaligned,))[1][0].flags.aligned


def test_a_copy_is_not_needed_and_the_data_stays_alive():
    x = np.arange(3.0)
    assert packing.pack((x,))[1][0] is x
    model = fv.Model(everything, 1, (True, 3, 0.25, np.arange(5.0), np.eye(2), np.array([1, 2], np.int8)))
    before = fv.elbo(model, fv.Gaussian(0, 1)).value
    filler = [np.full(5, float(k)) for k in range(1000)]
    assert fv.elbo(model, fv.Gaussian(0, 1)).value == before
    assert len(filler) == 1000


def test_nothing_is_compiled_again():
    fv.fit(fv.Model(shifted, 1, (1.0,)))
    fv.elbo(
        fv.Model(shifted, 1, (1.0,), support="positive"),
        fv.TransformedGaussian(fv.Gaussian(0, 1), "positive", 1),
    )
    count, engine = compilation.compiled_count(), engine_signatures()
    for x in (2.0, np.float64(3.0), np.float32(4.0)):
        model = fv.Model(shifted, 1, (x,))
        assert abs(fv.fit(model).q.mean[0] - float(x)) <= 1e-9
        assert abs(fv.fit(model.with_data((5.0,))).q.mean[0] - 5.0) <= 1e-9
        fv.fit(fv.Model(shifted, 1, (x,), support="positive"))
    assert compilation.compiled_count() == count
    # Another log joint costs its own function and nothing in the engine, other types of data the same.
    assert fv.fit(fv.Model(squares, 1)).converged
    assert compilation.compiled_count() == count + 1
    assert fv.fit(fv.Model(shifted, 1, (2,))).converged
    assert compilation.compiled_count() == count + 2
    assert engine_signatures() == engine
    assert len(shifted.signatures) <= 3


def test_a_plain_function_is_jitted_once():
    def log_joint(z, x):
        return -0.5 * (z[0] - x) ** 2

    first = fv.Model(log_joint, 1, (1.0,))
    count = compilation.compiled_count()
    second = fv.Model(log_joint, 1, (2.0,))
    assert compilation.compiled_count() == count
    assert first._dispatcher is second._dispatcher
    assert second.log_density([[2.0], [3.0]]).tolist() == [0.0, -0.5]
    assert second.log_density([3.0]) == -0.5
    assert repr(second) == "Model(log_joint, dim=1, support='real', data=1 item)"


def test_theta_and_data_are_replaced():
    model = fv.Model(with_theta, 1, (3.0,), theta=[1.0, 2.0])
    assert model.theta.tolist() == [1.0, 2.0]
    other = model.with_theta([0.0, 1.0])
    assert model.theta.tolist() == [1.0, 2.0]
    assert abs(fv.fit(other).q.mean[0] - 1.5) <= 1e-9
    assert abs(fv.fit(other.with_data((4.0,))).q.mean[0] - 2.0) <= 1e-9
    # Precisions 1 at theta[0] and 1/4 at x.
    assert abs(fv.fit(model).q.mean[0] - 1.4) <= 1e-9
    assert fv.Model(shifted, 1, (1.0,)).theta is None
    with says(ValueError, "theta must have shape (2,), not (3,)"):
        model.with_theta([1, 2, 3])
    with says(ValueError, "theta[1] is nan"):
        model.with_theta([1, math.nan])
    with says(ValueError):
        model.theta[0] = 1.0
    with says(TypeError, "data must have the types", "make a new Model"):
        model.with_data((np.arange(3.0),))
    with says(TypeError, "data must be a tuple"):
        model.with_data([3.0])


def test_a_model_cannot_be_changed_but_copied_and_pickled():
    model = fv.Model(shifted, 1, (3.0,), log_joint_grad=gradient)
    with says(AttributeError, "a Model cannot be changed"):
        model.dim = 2
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert abs(fv.fit(other).q.mean[0] - 3.0) <= 1e-9
        assert bool(fv.check_gradient(other))


def test_a_pickled_model_works_in_another_process(tmp_path):
    @numba.njit
    def local(z, x):  # which the other process cannot import
        return -0.5 * (z[0] - x) ** 2

    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(fv.Model(local, 1, (3.0,))))
    assert run_program("fit_pickled_model", path) == "Gaussian(mean=[3], cov=[[1]])\n"


def test_bad_models():
    for dim in (0, -1):
        with says(ValueError, "dim must be at least 1, not"):
            fv.Model(squares, dim)
    for dim in (1.5, True, "1"):
        with says(TypeError, "dim must be an integer, not"):
            fv.Model(squares, dim)
    with says(TypeError, "data must be a tuple, not float: write (x,)"):
        fv.Model(shifted, 1, 3.0)
    with says(TypeError, "data must be a tuple, not list"):
        fv.Model(shifted, 1, [3.0])
    with says(TypeError, "log_joint must be a function", "not str"):
        fv.Model("f", 1)
    with says(TypeError, "log_joint(z, x) must take 1 arguments: (z)"):
        fv.Model(shifted, 1)
    with says(TypeError, "log_joint(z, x) must take 3 arguments: (z, data[0], data[1])"):
        fv.Model(shifted, 1, (1.0, 2.0))
    with says(TypeError, "log_joint(z, x) must take 3 arguments: (z, theta, data[0])"):
        fv.Model(shifted, 1, (1.0,), theta=[1.0])
    with says(TypeError, "log_joint_grad(z, x) must take 3 arguments: (z, grad, data[0])"):
        fv.Model(shifted, 1, (1.0,), log_joint_grad=shifted)
    with says(TypeError, "log_joint writes to z"):
        fv.Model(writes, 1, (1.0,))
    with says(TypeError, "log_joint(z: float64[:], float64) -> float cannot be compiled"):
        fv.Model(wrong_type, 1, (1.0,))


def test_a_log_joint_must_return_a_number():
    """Of an array, one for each observation, the first entry was taken, and fits were "converged"."""
    summed = "log_joint must return a real number, not array(float64, 1d, C): sum it, as with np.sum"
    with says(TypeError, summed):
        fv.Model(lambda z, x: -0.5 * (z[0] - x) ** 2, 1, (np.array([1.0, 2.0]),))
    with says(TypeError, summed):
        fv.Model(lambda z: -0.5 * z**2, 1)
    for returned, kind in (
        (None, "none"),
        ("a", "unicode_type"),
        (1j, "complex128"),
        ((1.0, 2.0), "UniTuple"),
    ):
        with says(TypeError, f"log_joint must return a real number, not {kind}"):
            fv.Model(lambda z, returned=returned: returned, 1)
    with says(TypeError, "log_joint_grad must return a real number, not none"):
        fv.Model(lambda z: -0.5 * z[0] ** 2, 1, log_joint_grad=lambda z, grad: None)
    assert fv.Model(lambda z: z[0] > 1.0, 1).log_density(np.full((1, 1), 2.0)) == 1.0

    each = numba.njit(lambda z, x: -0.5 * (z[0] - x) ** 2)

    @numba.njit
    def inside(x):
        return fv.log_evidence(fv.Model(each, 1, (x,)))

    with says(numba.TypingError, "a log joint must return a real number", "sum it"):
        inside(np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("item", "error", "parts"),
    [
        (np.zeros(0), ValueError, ("data[0] is empty: its shape is (0,)",)),
        (np.zeros((3, 0)), ValueError, ("data[0] is empty: its shape is (3, 0)",)),
        ([], ValueError, ("data[0] is empty",)),
        (np.ma.masked_array([1.0], [True]), TypeError, ("data[0] is a masked array",)),
        ("text", TypeError, ("data[0] must be a real number or a non-empty numeric array, not str",)),
        (None, TypeError, ("data[0] must be", "not NoneType")),
        (1j, TypeError, ("data[0] must be", "not complex")),
        (np.zeros(2, complex), TypeError, ("data[0] must be", "of dtype complex128")),
        (np.zeros(2, np.float16), TypeError, ("data[0] must be", "of dtype float16")),
        (np.array(["a"]), TypeError, ("data[0] must be", "of dtype <U1")),
        (np.array([{}]), TypeError, ("data[0] must be", "of dtype object")),
        ({"x": 1}, TypeError, ("data[0] must be", "not dict")),
        ([[1.0], [2.0, 3.0]], ValueError, ("data[0] is a list and no array", "inhomogeneous shape")),
        (10**400, ValueError, ("data[0] does not fit into an integer of 64 bits",)),
    ],
)
def test_bad_data(item, error, parts):
    with says(error, *parts):
        fv.Model(shifted, 1, (item,))


@pytest.mark.parametrize(
    ("support", "dim", "part"),
    [
        ("line", 1, "support[0] must be 'real', 'positive'"),
        (["real", "half"], 2, "support[1] must be"),
        (["real"], 2, "one entry for each of 2 coordinates"),
        (3, 1, "one entry for each of 1 coordinates"),
        ("lower", 1, "support[0] must be"),
        (("lower", math.inf), 1, "support[0] must be"),
        (("interval", 1.0, 1.0), 1, "a < b"),
        (("interval", 2.0, 1.0), 2, "a < b"),
        (("interval", 0.0), 1, "support[0] must be"),
        (("upper", "one"), 1, "support[0][1] must be a real number"),
        (("lower", math.nan), 1, "support[0][1] is nan"),
        ("simplex", 1, "a simplex has at least two coordinates"),
        (["real", "simplex"], 2, "support[1] is 'simplex'"),
        (("simplex", 3), 4, "for each of 4 coordinates, not ('simplex', 3), which is for 3"),
        (("simplex", 2.5), 4, "support[0][1] must be an integer"),
        (["real", ("cholesky_corr", 1)], 2, "support[1] is ('cholesky_corr', 1): k is at least two"),
        ("cholesky_corr", 4, "('cholesky_corr', k), not 'cholesky_corr'"),
        (
            ("interval", [0.0, 0.0], [1.0, 2.0, 3.0]),
            2,
            "support[0] has ends of different shapes, (2,) and (3,)",
        ),
        (("interval", [0.0, 3.0], [1.0, 2.0]), 2, "but a[1] = 3, b[1] = 2"),
        (("interval", [0.0, 0.0], [1.0, 2.0]), 4, "which is for 2"),
        (["real", ("ordered", 3)], 3, "which is for 4"),
    ],
)
def test_bad_supports(support, dim, part):
    with says((TypeError, ValueError), part):
        fv.Model(squares, dim, support=support)


@compiled_only
def test_models_of_compiled_code_are_ordered():
    @numba.njit
    def made(x):
        return fv.fit(fv.Model(squares, 2, support="positive_ordered")).q, fv.log_evidence(
            fv.Model(squares, 2, support="ordered")
        ).value

    q, evidence = made(1.0)
    assert q.support == [("positive_ordered", 2)]
    np.testing.assert_allclose(
        q.mean, fv.fit(fv.Model(squares, 2, support="positive_ordered")).q.mean, rtol=1e-6
    )
    assert abs(evidence - fv.log_evidence(fv.Model(squares, 2, support="ordered")).value) <= 1e-9


def test_log_density_wants_points():
    model = fv.Model(squares, 2)
    assert model.log_density(np.ones((3, 4, 2))).shape == (3, 4)
    assert model.log_density([[1, 1]]).tolist() == [-1.0]
    with says(ValueError, "z must have shape (..., 2), not (3,)"):
        model.log_density([1.0, 2.0, 3.0])
    with says(ValueError, "z must have shape (..., 2), not ()"):
        model.log_density(1.0)


def quadratic(z, x):
    return -0.5 * (x - z[0]) ** 2


def test_functions_of_models_that_are_gone_are_forgotten(monkeypatch):
    monkeypatch.setattr(compilation, "_MOST", 2)
    monkeypatch.setattr(compilation, "_jits", {})
    monkeypatch.setattr(compilation, "_compiled", {})
    functions, first = [], None
    for k in range(5):
        function = eval(f"lambda z, x: -0.5 * (x - z[0]) ** 2 + {k}")
        model = fv.Model(function, 1, (1.0,))
        first = model if first is None else first
        functions.append(weakref.ref(function))
        del function, model
    gc.collect()
    assert len(compilation._jits) == len(compilation._compiled) == 2
    # The first is kept by its model, the last two by the cache for the next model.
    assert [function() is not None for function in functions] == [True, False, False, True, True]
    q = fv.Gaussian(1.0, 1.0)
    assert fv.elbo(first, q).value == fv.elbo(fv.Model(quadratic, 1, (1.0,)), q).value
    # Copies keep the compiled function as well.
    other = first.with_data((2.0,))
    del first
    gc.collect()
    assert other.log_density([2.0]) == 0.0
    assert (
        abs(fv.elbo(other, fv.Gaussian(2.0, 1.0)).value - fv.elbo(other, fv.Gaussian(2.0, 1.0)).value) == 0.0
    )


def test_a_forgotten_function_is_compiled_again(monkeypatch):
    monkeypatch.setattr(compilation, "_MOST", 1)
    monkeypatch.setattr(compilation, "_jits", {})
    monkeypatch.setattr(compilation, "_compiled", {})

    def other(z, x):
        return -((x - z[0]) ** 2)

    fv.Model(quadratic, 1, (1.0,))
    before = compilation.compiled_count()
    fv.Model(quadratic, 1, (2.0,))
    assert compilation.compiled_count() == before
    fv.Model(other, 1, (1.0,))
    fv.Model(quadratic, 1, (1.0,))
    assert compilation.compiled_count() == before + 2


def test_a_log_joints_own_exception_is_named_and_chained():
    def log_joint(z):
        if z[1] > 0.5:
            raise ValueError("too large")
        return -0.5 * (z * z).sum()

    model = fv.Model(log_joint, 12)
    for call in (
        lambda: fv.elbo(model, fv.Gaussian(np.zeros(12), np.eye(12))),
        lambda: fv.fit(model, start=np.ones(12)),
        lambda: fv.log_evidence(fv.Model(log_joint, 2)),
    ):
        with says(ValueError, "log_joint raised ValueError (too large) at z = [") as caught:
            call()
        assert isinstance(caught.value.__cause__, ValueError)
        assert str(caught.value.__cause__) == "too large"
    with says(ValueError, "too large"):
        model.log_density(np.ones(12))


def test_a_fault_near_a_bound_is_shown_and_no_declared_support_is_advised():
    def log_joint(z):
        return -math.inf if z[5] < 1e-9 else -0.5 * (z * z).sum()

    support = [*["real"] * 5, "positive", *["real"] * 6]
    mean = np.where(np.arange(12) == 5, math.log(1e-12), 0.0)
    q = fv.TransformedGaussian(fv.Gaussian(mean, 1e-20 * np.eye(12)), support, 12)
    found = fv.elbo(fv.Model(log_joint, 12, support=support), q)
    assert found.value == -math.inf
    for words in ("-inf at z = [", "...", "(z[5] = ", " is near 0)", "finite inside of the support"):
        assert words in found.note
    assert "Declare" not in found.note


@pytest.mark.parametrize(
    ("code", "data", "advice"),
    [
        ("gammaln(z[0])", (), "write math.lgamma(x) instead of gammaln"),
        ("special.erf(z[0])", (), "write math.erf(x) instead of erf"),
        ("logsumexp(z)", (), "write np.logaddexp(a, b)"),
        ("stats.norm.logpdf(z[0])", (), "write the logarithm of the density out"),
        ("helper(z[0])", (), "helper = numba.njit(helper)"),
        ("-(d[0] @ z).sum()", (np.eye(2, dtype=np.float32),), "give data[0] (float32) as float64"),
        ("-np.dot(d[1], z).sum()", (1.0, np.eye(2, dtype=int)), "give data[1] (int64) as float64"),
        ("-(matrix @ z).sum()", (), "give matrix (float32) as float64"),
    ],
)
def test_what_to_write_instead(code, data, advice):
    from scipy import special, stats

    scope = {
        "np": np,
        "special": special,
        "stats": stats,
        "gammaln": special.gammaln,
        "logsumexp": special.logsumexp,
        "helper": lambda x: x,
        "matrix": np.eye(2, dtype=np.float32),
    }
    names = [f"d{k}" for k in range(len(data))]
    listed = ", ".join(names)
    exec(f"def log_joint(z, {listed}):\n    d = ({listed}{',' if data else ''})\n    return {code}\n", scope)
    with says(TypeError, "cannot be compiled", advice):
        fv.Model(scope["log_joint"], 2, data)


@numba.njit
def quartic(z, kind, y):
    s = 0.0
    for i in range(z.size):
        s -= 0.5 * (z[i] - y[i]) ** 2 + 0.1 * z[i] ** 4
    return s


def quartic_grad(z, grad, kind, y):
    for i in range(z.size):
        grad[i] = y[i] - z[i] - 0.4 * z[i] ** 3
        if kind == 1:
            grad[i] *= 1.05
    if kind == 2:
        grad[0] *= 2.0
    if kind == 3:
        grad[0] = math.nan
    return 0.0 if kind == 4 else quartic(z, kind, y)


def test_a_wrong_gradient_is_named():
    named = "log_joint_grad is not the gradient of log_joint (check_gradient(model, ["
    data = np.random.default_rng(3).normal(size=(2, 5))
    model = fv.Model(quartic, 5, (0, data[0]), log_joint_grad=quartic_grad)
    assert fv.fit(model, "diag").converged
    batch = fv.fit_batch(model, (np.repeat(np.arange(5), 2), np.tile(data, (5, 1))), "diag")
    assert batch.converged.tolist() == [True] * 2 + [False] * 8
    assert all(batch.status(n).startswith(named) for n in range(2, 10))
    for kind in range(1, 5):
        wrong = model.with_data((kind, data[0]))
        assert fv.fit(wrong, "diag").status.startswith(named)
        # One step at a time leads to a mean of NaN, several at a time to a log joint there.
        for steps in (10, 200):
            try:
                status = fv.fit(wrong, "diag", method="sgd", steps=steps, rng=0).status
            except ValueError as error:
                status = str(error).removeprefix("the fit cannot start: ")
            assert status.startswith(named)


def test_data_of_other_libraries():
    class Series:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    assert fv.Model(shifted, 1, (Series(3.0),)).data == (3.0,)
    with says(ValueError, "data[0] is empty"):
        fv.Model(shifted, 1, (Series([]),))
    with says(TypeError, "data[0] must be a real number or a non-empty numeric array"):
        fv.Model(shifted, 1, (Series(["a"]),))
