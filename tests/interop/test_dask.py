"""Models and batches over Dask: in this process, and on two workers, of which one is killed."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastvi as fv
from fastvi import dask as dask_of_fastvi
from fastvi.common import threads
from fastvi.inference.compilation import compiled_count
from helpers.doors import needed
from helpers.messages import says

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

RNG = np.random.default_rng(20260301)
X, Y = RNG.normal(size=(57, 3)), RNG.normal(size=57)
NAMES = {"beta": (3,), "sigma": "positive"}


def log_prior(p):
    return fv.densities.normal(p.beta, 0.0, 1.0) - p.sigma


def log_likelihood(p, x, y):
    return fv.densities.normal(y, x @ p.beta, p.sigma)


def log_joint(p, x, y):
    prior = fv.densities.normal(p.beta, 0.0, 1.0) - p.sigma
    return prior + fv.densities.normal(y, x @ p.beta, p.sigma)


@pytest.fixture(scope="module")
def prior():
    return fv.Model(log_prior, NAMES)


def blocks(rows):
    return da.from_array(X, chunks=(rows, 2)), da.from_array(Y, chunks=rows)


def bits(fit):
    return fit.elbo.value, fit.evaluations, fit.q.mean.tobytes(), fit.q.cov.tobytes()


class Hyperbolic:
    """A function of a block of points, for workers; it counts its calls in this process."""

    def __init__(self, centre):
        self.centre, self.calls = np.asarray(centre), 0

    def values(self, z):
        return -np.cosh(z - self.centre).sum(axis=1)

    def __call__(self, z):
        self.calls += 1
        return self.values(z), -np.sinh(z - self.centre)


CENTRES = RNG.normal(size=(40, 4))


def flat(z):
    return 0.0


def by_hand(functions, dim=4):
    """The sum of functions of a block as one model: sixteen by sixteen."""

    def value_and_grad(z):
        found = [np.column_stack(function(z)) for function in functions]
        while len(found) > 16:
            found = [sum(found[k + 1 : k + 16], found[k]) for k in range(0, len(found), 16)]
        total = sum(found[1:], found[0])
        return total[:, 0], total[:, 1:]

    return fv.from_block(value_and_grad, lambda z: value_and_grad(z)[0], dim)


@pytest.mark.parametrize("rows", [20, 2])
def test_a_sum_over_blocks_equals_the_whole(rows, prior, monkeypatch):
    model = fv.dask.sum_of(blocks(rows), prior, log_likelihood)
    monkeypatch.setattr(fv.Model, "_calls_are_expensive", True)  # the whole is fitted by the same draws
    fit, whole = fv.fit(model), fv.fit(fv.Model(log_joint, NAMES, (X, Y)))
    assert fit.converged
    assert fit.elbo.value == pytest.approx(whole.elbo.value, rel=1e-8)
    assert np.allclose(fit["beta"].mean, whole["beta"].mean, rtol=0, atol=1e-5)
    assert fit["sigma"].mean == pytest.approx(whole["sigma"].mean, rel=1e-5)
    assert fit.sample(3, 0, named=True)["beta"].shape == (3, 3)
    assert model.gradient == "written"
    assert fv.check_gradient(model)


def test_a_part_that_moves_is_made_of_the_same_functions(prior):
    def of_mean(p, x, y):  # a function that is pickled by its code
        return fv.densities.normal(y, p.beta[0], p.sigma)

    packed = dask_of_fastvi._packed((of_mean, dask_of_fastvi._coordinates(prior)))
    part = dask_of_fastvi._made(3, (X, Y), packed, 4)
    assert part.__reduce__()[1][2] is packed
    before = compiled_count()
    other = pickle.loads(pickle.dumps(part))
    assert compiled_count() == before
    assert other.number == 3
    assert other.what.log_density(np.ones(4)) == part.what.log_density(np.ones(4))
    assert sys.getsizeof(part) > X.nbytes
    assert sys.getsizeof(dask_of_fastvi._made(0, Heavy(np.zeros(4)), None, 4)) > 10**9


@pytest.mark.parametrize("count", [1, 16, 33])
def test_parts_are_added_in_their_order(count):
    parts = [Hyperbolic(centre) for centre in CENTRES[:count]]
    model = fv.dask.sum_of([dask.delayed(part) for part in parts], fv.Model(flat, 4))
    fit, calls = fv.fit(model), parts[0].calls
    direct = [Hyperbolic(centre) for centre in CENTRES[:count]]
    assert bits(fit) == bits(fv.fit(by_hand(direct)))
    # A block of points is one round trip, whatever its size.
    assert calls == direct[0].calls
    with dask.config.set(scheduler="synchronous"):
        assert bits(fv.fit(model)) == bits(fit)


def test_parts_of_all_kinds(prior):
    pieces = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    expected = bits(fv.fit(fv.dask.sum_of(list(map(dask.delayed, pieces)), prior, log_likelihood)))
    models = [dask.delayed(fv.Model)(log_likelihood, NAMES, piece) for piece in pieces]
    assert bits(fv.fit(fv.dask.sum_of(models, prior))) == expected
    assert bits(fv.fit(fv.dask.sum_of(blocks((30, 27)), prior, log_likelihood))) == expected

    def of_mean(p, y):
        return fv.densities.normal(y, p.beta[0], p.sigma)

    one = fv.dask.sum_of(da.from_array(Y, chunks=20), prior, of_mean).log_density(np.ones(4))
    same = sum(fv.densities.normal(Y[k : k + 20], 1.0, 1.0) for k in (0, 20, 40))
    assert one == prior.log_density(np.ones(4)) + same


def test_a_part_without_gradients_or_constants():
    part = fv.from_block(None, Hyperbolic(CENTRES[0]).values, 4)
    object.__setattr__(part, "_names", part._names._replace(note="up to a constant"))
    model = fv.dask.sum_of([part, part, Hyperbolic(CENTRES[0])], fv.Model(flat, 4))
    assert model.gradient == "differences"
    fit = fv.fit(model)
    assert np.allclose(fit.q.mean, CENTRES[0], atol=1e-4)
    assert fit.elbo.note == "up to a constant"


def test_an_exception_of_a_part_is_raised_with_its_number():
    def broken(z):
        raise ZeroDivisionError("as it was")

    model = fv.dask.sum_of([Hyperbolic(CENTRES[0]), broken], fv.Model(flat, 4))
    with pytest.raises(ZeroDivisionError, match="as it was") as caught:
        fv.fit(model)
    assert caught.value.__notes__ == ["in part 1 of fastvi.dask.sum_of"]
    for wrong, error, words in (
        (lambda z: z, TypeError, "must return values and gradients"),
        (lambda z: (-(z[:, 0] ** 2), z[:, 0]), ValueError, "the gradients of a block of"),
    ):
        with pytest.raises(error, match=words):
            fv.check_gradient(fv.dask.sum_of([wrong], fv.Model(flat, 4)))


def test_a_part_without_density_is_named():
    def of_part(z):
        return np.where(z[:, 0] > -1e9, np.nan, 0.0), z

    model = fv.dask.sum_of([Hyperbolic(CENTRES[0]), of_part, of_part], fv.Model(flat, 4))
    with pytest.raises(ValueError, match=r"log_joint is nan at z = .*: part 1 is nan, part 2 is nan"):
        fv.fit(model)


def test_bad_parts_are_named(prior):
    x, y = blocks(20)
    for parts, error, words in (
        ((x, y.rechunk(30)), ValueError, "parts[0] has (20, 20, 17), parts[1] has (30, 27)"),
        ((x, Y), TypeError, "parts[1] must be a Dask array, not ndarray"),
        ([], ValueError, "parts is empty"),
        (3, TypeError, "not int"),
        ("xy", TypeError, "not str"),
        (da.from_array(np.array(1.0)), ValueError, "parts has no axis"),
    ):
        with says(error, words):
            fv.dask.sum_of(parts, prior, log_likelihood)
    with says(TypeError, "log_likelihood must be a function or None, not int"):
        fv.dask.sum_of((x, y), prior, 3)
    with says(TypeError, "model must be a Model, not int"):
        fv.dask.sum_of((x, y), 3, log_likelihood)
    with says(ValueError, "part 0 has 1 coordinates, the prior has 4"):
        fv.dask.sum_of([fv.Model(flat, 1)], prior)
    with says(TypeError, "part 1 must be a Model or a function, not int"):
        fv.dask.sum_of([Hyperbolic(CENTRES[0]), 3], prior)


def test_a_missing_dask_names_the_command(monkeypatch, prior):
    monkeypatch.setitem(sys.modules, "dask", None)
    for call in (lambda: fv.dask.sum_of([], prior), lambda: fv.dask.fit_batch(prior, [])):
        with pytest.raises(ImportError, match=r'pip install "fastvi\[dask\]"'):
            call()
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r'pip install "fastvi\[dask\]"'):
        fv.dask.pairwise(X)


# Batches


def one_number(z, x):
    return -0.5 * z[0] ** 2 - 0.5 * ((x - z[0]) ** 2).sum()


def batch_bits(batch):
    arrays = batch.mean, batch.cov, batch.elbo, batch.error, batch.gradient_norm, batch.evaluations
    return [a.tobytes() for a in (*arrays, batch.codes, batch.converged)]


def test_a_batch_over_blocks_equals_the_whole():
    model = fv.Model(one_number, 1, data=(np.zeros(1),))
    x = np.array([1.0, 2.0, np.nan, 4.0, 5.0])[:, None]
    whole = fv.fit_batch(model, (x,), rtol=1e-6)
    for datasets in (
        (da.from_array(x, chunks=2),),
        [dask.delayed((x[:2],)), dask.delayed((x[2:],))],
        [dask.delayed([(each,) for each in x])],
    ):
        found = fv.dask.fit_batch(model, datasets, rtol=1e-6)
        assert batch_bits(found) == batch_bits(whole)
        assert found.status(2) == whole.status(2)
        assert found.q(3).mean == whole.q(3).mean
        assert found.model is model
    assert len(fv.dask.fit_batch(model, [])) == 0


def test_bad_batches_are_named():
    model, x = fv.Model(one_number, 1, data=(np.zeros(1),)), da.from_array(np.ones((4, 2)), chunks=2)
    with says(ValueError, "datasets must have the same blocks", "datasets[1] has (4,)"):
        fv.dask.fit_batch(model, (x, x.rechunk(4)))
    with says(ValueError, "family"):
        fv.dask.fit_batch(model, (x,), "round")
    good, bad = dask.delayed((np.ones((2, 2)),)), dask.delayed((np.ones((2, 2)) * 1j,))
    with pytest.raises(ValueError, match=r"datasets\[0\] must have 2 axes and numbers") as caught:
        fv.dask.fit_batch(model, [good, bad])
    assert caught.value.__notes__ == ["in block 1 of the datasets of fastvi.dask.fit_batch"]
    with says(TypeError, "fit_batch varies the data of a model"):
        fv.dask.fit_batch(fv.from_block(None, lambda z: z[:, 0], 1), (x,))


# All pairs


P, Q = RNG.dirichlet(np.ones(5), size=(2, 23))[:, :23]


@pytest.mark.parametrize("metric", ["kl", "total_variation"])
@pytest.mark.parametrize("k", [1, 4, 23])
def test_nearest_rows(metric, k):
    table = fv.pairwise(P, Q, metric)
    values, columns = fv.dask.pairwise(
        da.from_array(P, chunks=(6, 3)), da.from_array(Q, chunks=5), metric, k=k
    )
    assert values.shape == columns.shape == (23, k)
    values, columns = dask.compute(values, columns)
    expected = np.argsort(table, axis=1, kind="stable")[:, :k]
    assert np.array_equal(columns, expected)
    np.testing.assert_allclose(values, np.take_along_axis(table, expected, 1), rtol=1e-12, atol=1e-15)
    assert columns.dtype == np.int64


def test_of_equal_rows_the_first_are_nearest():
    table = np.array([[0.5, 0.5], [0.25, 0.75]])[[1, 0, 1, 0, 0, 1, 1, 0]]
    for chunks in (8, 3, 1):
        rows = fv.dask.pairwise(da.from_array(table, chunks=(chunks, 2)), metric="total_variation", k=3)[1]
        assert rows.compute()[:2].tolist() == [[0, 2, 5], [1, 3, 4]]


def test_nan_is_farthest():
    table = np.array([[0.5, 0.5], [np.nan, 0.5], [0.25, 0.75]])
    lazy = da.from_array(table, chunks=(1, 2))
    values, rows = dask.compute(
        *fv.dask.pairwise(lazy, metric="total_variation", k=3, nan_policy="propagate")
    )
    assert rows.tolist() == [[0, 2, 1], [0, 1, 2], [2, 0, 1]]
    assert np.isnan(values[0, 2])


def test_all_pairs_are_those_of_pairwise():
    lazy = fv.dask.pairwise(P, da.from_array(Q, chunks=5), base=2, mass="normalize")
    np.testing.assert_allclose(lazy.compute(), fv.pairwise(P, Q, base=2, mass="normalize"), rtol=1e-13)
    assert fv.dask.pairwise(P).shape == (23, 23)
    with says(ValueError, "k must be at most 23"):
        fv.dask.pairwise(P, Q, k=24)
    with says(ValueError, "k must be at least 1"):
        fv.dask.pairwise(P, Q, k=0)
    with says(TypeError, "k must be an integer"):
        fv.dask.pairwise(P, Q, k=1.5)
    with says(ValueError, "metric"):
        fv.dask.pairwise(P, Q, "round")


# On workers


@pytest.fixture(scope="module")
def cluster():
    distributed = needed("distributed")
    settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}
    # What is heavy is not moved, however busy its worker is.
    unmoved = dask.config.set({"distributed.scheduler.work-stealing": False})
    with unmoved, distributed.LocalCluster(n_workers=2, **settings) as found:
        yield found


@pytest.fixture
def client(cluster):
    with needed("distributed").Client(cluster) as found:
        found.wait_for_workers(2, timeout=60)
        yield found


@pytest.fixture
def doomed(cluster, client, tmp_path):
    """(process, address) of a third worker, without a nanny, which would restart it."""
    options = [
        "--no-nanny",
        "--no-dashboard",
        "--nthreads",
        "1",
        "--memory-limit",
        "0",
        "--local-directory",
        str(tmp_path),
    ]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address, *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, **quiet)
    try:
        client.wait_for_workers(3, timeout=60)
        (address,) = (at for at, pid in client.run(os.getpid).items() if pid == process.pid)
        yield process, address
    finally:
        process.kill()
        process.wait()


class Heavy(Hyperbolic):
    """A part that Dask takes for one of so many bytes, which it does not move."""

    def __sizeof__(self):
        return 10**9


def hyperbolic(k, dim=2):
    """A part of few coordinates, whose fits make few round trips."""
    return Hyperbolic(CENTRES[k, :dim])


def three():
    return fv.from_block(lambda z: (np.zeros(len(z)), np.zeros(z.shape)), None, 3)


def killing(process):
    """A flat prior, at whose fourth call a process is killed: fits of two coordinates take ten."""
    calls = []

    def value_and_grad(z):
        calls.append(1)
        if len(calls) == 4:
            process.kill()
            process.wait()
        return np.zeros(len(z)), np.zeros(z.shape)

    return fv.from_block(value_and_grad, lambda z: value_and_grad(z)[0], 2)


def test_three_processes_and_one_that_dies_have_the_same_bits(client, doomed):
    process, address = doomed
    expected = bits(fv.fit(by_hand([hyperbolic(k) for k in range(4)], 2)))
    parts = [client.submit(hyperbolic, k) for k in range(3)]
    parts.append(client.submit(hyperbolic, 3, workers=[address], allow_other_workers=True))
    assert bits(fv.fit(fv.dask.sum_of(parts, fv.Model(flat, 2)))) == expected
    assert client.who_has(parts[3:])[parts[3].key] == (address,)
    assert bits(fv.fit(fv.dask.sum_of(parts, killing(process)))) == expected
    assert process.returncode is not None
    assert address not in client.who_has(parts[3:])[parts[3].key]
    assert fv.check_gradient(fv.dask.sum_of([client.submit(hyperbolic, k, 3) for k in range(3)], three()))


def test_lost_parts_are_named(client, doomed):
    process, address = doomed
    (scattered,) = client.scatter([Heavy(CENTRES[0, :2])], workers=[address], hash=False)
    parts = [client.submit(hyperbolic, 1), scattered, client.submit(hyperbolic, 2)]
    model = fv.dask.sum_of(parts, killing(process))
    with pytest.raises(RuntimeError, match=r"has lost parts of its 3: 1\. Dask cannot"):
        fv.fit(model)
    assert process.returncode is not None


def test_models_go_to_workers(client):
    assert set(client.run(threads.allowed).values()) == {1}  # there is a worker for each core
    prior, model = fv.Model(flat, 1), fv.Model(one_number, 1, data=(np.zeros(1),))
    x = np.linspace(0, 3, 7)
    parts = da.from_array(x, chunks=3)
    expected = fv.fit_batch(model, (x[:, None],))
    assert batch_bits(fv.dask.fit_batch(model, (parts[:, None],))) == batch_bits(expected)
    here = fv.fit(fv.dask.sum_of([model.with_data((x[k : k + 3],)) for k in (0, 3, 6)], prior))
    assert bits(fv.fit(fv.dask.sum_of(parts, prior, one_number))) == bits(here)


def test_an_exception_on_a_worker_is_raised_with_its_number(client):
    def broken(z):
        raise ZeroDivisionError("as it was")

    model = fv.dask.sum_of([hyperbolic(0), broken], fv.Model(flat, 2))
    with pytest.raises(ZeroDivisionError, match="as it was") as caught:
        fv.fit(model)
    assert caught.value.__notes__ == ["in part 1 of fastvi.dask.sum_of"]


def test_all_pairs_go_to_zarr(tmp_path):
    zarr = needed("zarr")
    fv.dask.pairwise(da.from_array(P, chunks=(6, 5)), da.from_array(Q, chunks=(5, 5))).to_zarr(
        tmp_path / "kl"
    )
    stored = zarr.open_array(tmp_path / "kl", mode="r")
    assert stored.chunks == (6, 5)
    np.testing.assert_allclose(stored[:], fv.pairwise(P, Q), rtol=1e-12, atol=1e-15)
