"""Many fits at once: the results of single fits, for any number of threads and any other data sets."""

import ctypes
import math

import numba
import numpy as np
import pytest
from scipy.special import log_ndtr

import fastvi as fv
from fastvi.common.statuses import WORDS
from fastvi.inference import compilation, optima, packing
from fastvi.kernels.statuses import STEPS_EXHAUSTED, UNBOUNDED


@numba.njit
def worked_example(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.9189385332046727


@numba.njit
def normal_mean(z, y, s):
    total = -0.5 * (z[0] / 10.0) ** 2
    for i in range(y.size):
        total -= 0.5 * ((y[i] - z[0]) / s) ** 2
    return total


@numba.njit
def three(z, y):
    return -0.5 * ((z - y) ** 2).sum() - 0.1 * math.cosh(z[0])


POSITIVE = fv.Model(worked_example, 1, data=(1.0,), support="positive")
X = np.random.default_rng(5).uniform(-5.0, 40.0, 500)


@pytest.fixture
def two_threads():
    before = numba.get_num_threads()
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    yield
    numba.set_num_threads(before)


@pytest.mark.parametrize("family", ["full", "diag", "truncated"])
def test_a_batch_is_many_single_fits(family):
    batch = fv.fit_batch(POSITIVE, (X[:20],), family)
    assert len(batch) == 20
    assert batch.converged.all()
    for n in range(20):
        one = fv.fit(POSITIVE.with_data((float(X[n]),)), family)
        assert one.elbo.value == batch.elbo[n]
        assert one.elbo.error == batch.error[n]
        q = batch.q(n)
        assert type(q) is type(one.q)
        np.testing.assert_array_equal(q.mean, one.q.mean)
        np.testing.assert_array_equal(q.cov, one.q.cov)


def test_the_worked_example_on_the_half_line():
    batch = fv.fit_batch(POSITIVE, (X,), "truncated")
    assert batch.converged.all()
    exact = 0.5 - X + log_ndtr(X - 1.0)
    np.testing.assert_allclose(batch.elbo, exact, rtol=0, atol=1e-10)
    np.testing.assert_allclose(batch.mean[:, 0], X - 1.0, rtol=0, atol=1e-7)
    np.testing.assert_allclose(batch.cov[:, 0, 0], 1.0, rtol=0, atol=1e-7)
    log_z = fv.fit_batch(POSITIVE, (X,))
    assert (log_z.elbo <= exact + log_z.error).all()
    assert (log_z.elbo[X < 20] < exact[X < 20] - 1e-5).all()


def test_the_bits_do_not_depend_on_threads(two_threads):
    many = fv.fit_batch(POSITIVE, (X,))
    numba.set_num_threads(1)
    one = fv.fit_batch(POSITIVE, (X,))
    for name in ("mean", "cov", "elbo", "error", "gradient_norm", "evaluations", "codes"):
        np.testing.assert_array_equal(getattr(many, name), getattr(one, name))
    # Nor on the order, or on what came before in the same scratch space.
    reversed_order = fv.fit_batch(POSITIVE, (X[::-1],))
    np.testing.assert_array_equal(reversed_order.elbo[::-1], one.elbo)


def test_a_bad_data_set_disturbs_no_other():
    x = X[:200].copy()
    good = fv.fit_batch(POSITIVE, (x,))
    x[[0, 77, 199]] = math.nan, math.inf, -math.inf
    batch = fv.fit_batch(POSITIVE, (x,))
    assert np.flatnonzero(~batch.converged).tolist() == [0, 77, 199]
    rest = batch.converged
    np.testing.assert_array_equal(batch.elbo[rest], good.elbo[rest])
    np.testing.assert_array_equal(batch.mean[rest], good.mean[rest])
    assert batch.status(0) == "log_joint is nan at z = [1]"
    assert "-inf" in batch.status(77)
    assert np.isnan(batch.elbo[0])
    assert np.isnan(batch.mean[0]).all()
    with pytest.raises(ValueError, match=r"fit 0 has no q: log_joint is nan"):
        batch.q(0)


def test_ragged_data_sets():
    rng = np.random.default_rng(6)
    model = fv.Model(normal_mean, 1, data=(np.zeros(1), 1.0))
    sets = [(rng.standard_normal(n) + 3.0, 0.5) for n in (1, 5, 40, 2)]
    batch = fv.fit_batch(model, sets)
    for n, (y, s) in enumerate(sets):
        precision = 0.01 + y.size / s**2
        assert abs(batch.mean[n, 0] - y.sum() / s**2 / precision) < 1e-8
        assert abs(batch.cov[n, 0, 0] * precision - 1.0) < 1e-8
    # A tuple of tuples is a sequence too, and an empty array one bad data set.
    again = fv.fit_batch(model, (*sets, (np.zeros(0), 1.0)))
    np.testing.assert_array_equal(again.mean[:4], batch.mean)
    assert again.status(4) == "a data array is empty"
    assert not again.converged[4]
    assert np.isnan(again.elbo[4])


def test_small_data_are_joined():
    """The words of each data set are those of `pack`, but for addresses of the same bytes."""
    rng = np.random.default_rng(8)
    sets = [
        (rng.random(n), rng.integers(0, 9, (n, 3)), float(n), (rng.random((3, n)) < 0.5).T, rng.random())
        for n in (1, 5, 2, 40)
    ]
    kinds, _, blank = packing.pack(sets[0])
    table, kept, empty = packing.pack_tuples(kinds, blank, sets)
    assert len(kept) == 3  # one array for each column of arrays
    assert not empty
    addresses = [0, 2, 6]
    for row, data in zip(table, sets, strict=True):
        _, values, words = packing.pack(data)
        others = np.setdiff1d(np.arange(words.size), addresses)
        np.testing.assert_array_equal(row[others], words[others])
        for k, place in zip((0, 1, 3), addresses, strict=True):
            assert ctypes.string_at(int(row[place]), values[k].nbytes) == values[k].tobytes()
    for unlike in (("a",), (np.zeros(2), 1.0), (np.zeros(3, np.float32), *sets[0][1:])):
        with pytest.raises((TypeError, ValueError), match=r"datasets\[4\]"):
            packing.pack_tuples(kinds, blank, [*sets, unlike])


def test_batch_axis_of_arrays_and_numbers():
    rng = np.random.default_rng(7)
    y, s = rng.standard_normal((30, 4)), rng.uniform(0.5, 2.0, 30)
    model = fv.Model(normal_mean, 1, data=(np.zeros(4), 1.0))
    batch = fv.fit_batch(model, (y, s))
    listed = fv.fit_batch(model, [(y[n], s[n]) for n in range(30)])
    np.testing.assert_array_equal(batch.elbo, listed.elbo)
    # Strided and integer arrays are taken as they are.
    strided = fv.fit_batch(model, (np.asfortranarray(y), s[::-1][::-1]))
    np.testing.assert_array_equal(strided.elbo, batch.elbo)
    whole = fv.fit_batch(model, (np.ones((3, 4), int), np.ones(3, np.float32)))
    assert whole.converged.all()


def test_nothing_is_compiled_for_new_data():
    fv.fit_batch(POSITIVE, (X[:5],))
    before = compilation.compiled_count()
    signatures = (
        len(fv.kernels.inference.entry_points.fit_quadrature.signatures)
        if not numba.config.DISABLE_JIT
        else 0
    )
    fv.fit_batch(POSITIVE, (X[:9] + 1.0,))
    fv.Model(worked_example, 1, data=(2.0,), support="positive")
    assert compilation.compiled_count() == before
    if not numba.config.DISABLE_JIT:
        assert len(fv.kernels.inference.entry_points.fit_quadrature.signatures) == signatures


@pytest.mark.parametrize("family", ["full", "diag"])
def test_more_dimensions_go_by_draws(family):
    rng = np.random.default_rng(8)
    y = rng.standard_normal((6, 3))
    model = fv.Model(three, 3, data=(y[0],))
    batch = fv.fit_batch(model, (y,), family)
    assert batch.converged.all()
    for n in range(6):
        one = fv.fit(model.with_data((y[n],)), family)
        assert (one.elbo.value, one.elbo.error) == (batch.elbo[n], batch.error[n])
        np.testing.assert_array_equal(batch.q(n).cov, one.q.cov)
    y[2, 1] = math.nan
    again = fv.fit_batch(model, (y,), family)
    assert np.flatnonzero(~again.converged).tolist() == [2]
    np.testing.assert_array_equal(np.delete(again.elbo, 2), np.delete(batch.elbo, 2))


@numba.njit
def two_modes(z, centre, weight):
    """exp of it is a mixture of N(centre, I) and, with less weight, N(-centre, I), up to a constant."""
    left, right = math.log(1.0 - weight), math.log(weight)
    for i in range(z.size):
        left -= 0.5 * (z[i] + centre[i]) ** 2
        right -= 0.5 * (z[i] - centre[i]) ** 2
    return np.logaddexp(left, right)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_best_of_several_optima(dim):
    """Laplace's approximation from 0 leads to the mode near which the slope at 0 is larger."""
    rng = np.random.default_rng((12, dim))
    centres, weights = rng.standard_normal((6, dim)), rng.uniform(0.55, 0.95, 6)
    centres *= np.array([[1.0, 2.0, 5.0, 6.0, 7.0, 8.0]]).T / np.linalg.norm(centres, axis=1)[:, None]
    model = fv.Model(two_modes, dim, data=(centres[0], 0.5))
    batch = fv.fit_batch(model, (centres, weights))
    for n in range(6):
        one = fv.fit(model.with_data((centres[n], weights[n])))
        assert (one.elbo.value, one.converged) == (batch.elbo[n], batch.converged[n])
        np.testing.assert_array_equal(one.q.mean, batch.mean[n])
    far = np.linalg.norm(centres, axis=1) > 4.0
    wanted = np.log(weights) + 0.5 * dim * math.log(2.0 * math.pi)
    assert (abs(batch.elbo - wanted) < 0.02)[far].all()
    assert batch.converged[far].all()


@pytest.mark.parametrize("family", ["full", "diag", "isotropic", "mean"])
def test_a_gaussian_to_start_from(family):
    rng = np.random.default_rng(9)
    for dim in (2, 3):
        y = rng.standard_normal((4, dim))
        model = fv.Model(three, dim, data=(y[0],))
        root = 0.5 * np.eye(dim) + 0.2 * np.tri(dim)
        start = fv.Gaussian(np.full(dim, 0.1), root @ root.T)
        batch = fv.fit_batch(model, (y,), family, start)
        assert batch.converged.all()
        for n in range(4):
            one = fv.fit(model.with_data((y[n],)), family, start)
            assert one.elbo.value == batch.elbo[n]
            np.testing.assert_array_equal(batch.mean[n], one.q.mean)
            np.testing.assert_array_equal(batch.q(n).cov, one.q.cov)
            if family == "mean":
                np.testing.assert_allclose(batch.q(n).cov, start.cov, rtol=1e-12)


@numba.njit
def counted(z, y, calls):
    calls[0] += 1.0
    return -0.5 * ((z - y) ** 2).sum() - 0.1 * math.cosh(z[0])


@numba.njit
def counted_with_gradient(z, grad, y, calls):
    grad[:] = y - z
    grad[0] -= 0.1 * math.sinh(z[0])
    return counted(z, y, calls)


@pytest.mark.parametrize(
    ("dim", "family", "gradient"),
    [
        (1, "full", None),
        (1, "truncated", None),
        (3, "diag", None),
        (3, "diag", "differences"),
        (3, "diag", counted_with_gradient),
    ],
)
def test_all_evaluations_are_counted(dim, family, gradient):
    y, calls = np.random.default_rng(10).standard_normal((3, dim)), np.zeros((3, 1))
    model = fv.Model(counted, dim, data=(y[0], calls[0]), log_joint_grad=gradient)
    fv.fit(model, family)  # before the first one in one or two dimensions the log joint is timed
    calls[0] = 0.0
    batch = fv.fit_batch(model, (y, calls), family)
    np.testing.assert_array_equal(batch.evaluations, calls[:, 0])
    calls[0] = 0.0
    assert fv.fit(model, family).evaluations == calls[0, 0]


def test_progress_bar(capsys):
    quiet = fv.fit_batch(POSITIVE, (X,))
    shown = fv.fit_batch(POSITIVE, (X,), progress=True)
    np.testing.assert_array_equal(quiet.elbo, shown.elbo)
    assert "500 fits" in capsys.readouterr().err


def test_no_data_sets():
    assert len(fv.fit_batch(POSITIVE, [])) == 0
    assert len(fv.fit_batch(POSITIVE, (np.zeros(0),))) == 0
    assert repr(fv.fit_batch(POSITIVE, [])) == "FitBatch(0 fits, family='full', 0 converged)"


@pytest.mark.parametrize(
    ("datasets", "error", "message"),
    [
        ((X, X), ValueError, "datasets must have 1 arrays, one for each item of data, not 2"),
        ((np.zeros((3, 2)),), ValueError, r"datasets\[0\] must have 1 axes"),
        ([(1.0,), 2.0], TypeError, r"datasets\[1\] must be a tuple of data, not float"),
        ([(1.0,), (1,)], TypeError, r"datasets\[1\] must have the types of the model's data"),
        ([("a",)], TypeError, r"datasets\[0\]: data\[0\] must be a real number"),
        ((np.array(["a"]),), ValueError, r"datasets\[0\] must have 1 axes and numbers"),
    ],
)
def test_bad_data_sets(datasets, error, message):
    with pytest.raises(error, match=message):
        fv.fit_batch(POSITIVE, datasets)


def test_numbers_that_would_lose_digits():
    whole = fv.Model(worked_example, 1, data=(1,))
    assert (
        fv.fit_batch(whole, (np.arange(1, 3, dtype=np.uint8),)).elbo == fv.fit_batch(whole, [(1,), (2,)]).elbo
    ).all()
    for numbers in (np.array([1.5, 2.0]), np.array([1, 2], np.uint64)):
        with pytest.raises(
            TypeError, match=rf"datasets\[0\] .* fit into int64, .* not dtype {numbers.dtype}"
        ):
            fv.fit_batch(whole, (numbers,))


def test_empty_arrays_are_alike_in_both_forms():
    @numba.njit
    def log_joint(z, x):
        return -0.5 * ((z[0] - x) ** 2).sum()

    model = fv.Model(log_joint, 1, (np.zeros(2),))
    for datasets in ([(np.zeros(0),), ([],)], (np.zeros((2, 0)),)):
        batch = fv.fit_batch(model, datasets)
        assert batch.status(1) == "a data array is empty"
        assert np.isnan(batch.elbo).all()


def test_bad_arguments():
    with pytest.raises(TypeError, match="model must be a Model, not int"):
        fv.fit_batch(1, (X,))
    with pytest.raises(ValueError, match="family must be one of"):
        fv.fit_batch(POSITIVE, (X,), "round")
    with pytest.raises(ValueError, match='family="mean" holds the covariance of the start'):
        fv.fit_batch(POSITIVE, (X,), "mean")
    with pytest.raises(ValueError, match=r"start is .*outside of the model"):
        fv.fit_batch(POSITIVE, (X,), start=[-1.0])
    model = fv.Model(three, 3, data=(np.zeros(3),))
    with pytest.raises(ValueError, match='family="truncated" needs a model of dimension 1'):
        fv.fit_batch(model, (np.zeros((2, 3)),), "truncated")
    with pytest.raises(AttributeError, match="cannot be changed"):
        fv.fit_batch(POSITIVE, []).elbo = 1


def test_rows_that_have_not_converged_take_the_log_evidence_only_if_a_tail_is_slow(monkeypatch):
    """It took 20 ms for each of these, which fall off."""

    @numba.njit
    def jagged(z, left, frequency):
        return math.sin(frequency * z[0]) - (0.5 * z[0] ** 2 if z[0] > 0.0 else -left * z[0])

    asked = []

    def counted(model):
        asked.append(model)
        return fv.log_evidence(model)

    monkeypatch.setattr(optima, "log_evidence", counted)
    model = fv.Model(jagged, 1, (1.0, 1.0))
    proper = fv.fit_batch(model, (np.full(8, 2.0), np.linspace(50.0, 100.0, 8)), max_steps=1)
    assert {proper.status(n) for n in range(8)} == {WORDS[STEPS_EXHAUSTED]}
    assert not asked
    # A slow tail.
    improper = fv.fit_batch(model, (np.zeros(2), np.array([50.0, 100.0])), max_steps=1)
    assert {improper.status(n) for n in range(2)} == {WORDS[UNBOUNDED]}
