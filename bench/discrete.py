"""Divergences of arrays, beside SciPy, numkong, numexpr, torch, NumPy and a plain numba loop."""

from __future__ import annotations

import math

import numba
import numpy as np

import fastvi as fv

from . import inputs
from .contenders import Comparison, Peer

# Accurate values. A long double has 64 bits of mantissa on x86: its rounding error is negligible beside that
# of a float64 result. (Where it is a double, errors below 1e-15 mean nothing.)


def exact_kl(p, q):
    p, q = np.asarray(p, np.longdouble), np.asarray(q, np.longdouble)
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return (p * np.log(p / q)).sum(-1)


def exact_js_distance(p, q):
    p, q = np.asarray(p, np.longdouble), np.asarray(q, np.longdouble)
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    m = (p + q) / 2
    return np.sqrt(((p * np.log(p / m)).sum(-1) + (q * np.log(q / m)).sum(-1)) / 2)


def by_rows(exact):
    step = 1000
    return lambda p, q: np.concatenate(
        [exact(p[i : i + step], q[i : i + step]) for i in range(0, len(p), step)]
    )


def all_pairs(exact):
    return lambda p, q: np.array([exact(row, q) for row in p])


# What is timed. Each loader imports a library and returns a function of (p, q) written in this file, that of
# fastvi too: all have the cost of one Python frame.


def fastvi_kl():
    return lambda p, q: fv.kl(p, q)


def fastvi_js_distance():
    # The distance, because scipy and numkong compute it: the divergence and one square root.
    return lambda p, q: fv.js_distance(p, q)


def fastvi_pairwise(metric):
    return lambda: lambda p, q: fv.pairwise(p, q, metric)


def scipy_rel_entr():
    from scipy.special import rel_entr

    return lambda p, q: rel_entr(p, q).sum()


def scipy_rel_entr_rows():
    from scipy.special import rel_entr

    return lambda p, q: rel_entr(p, q).sum(axis=1)


def scipy_rel_entr_broadcast():
    from scipy.special import rel_entr

    return lambda p, q: rel_entr(p[:, None], q).sum(axis=-1)


def scipy_entropy():
    from scipy.stats import entropy

    return lambda p, q: entropy(p, q)


def scipy_entropy_rows():
    from scipy.stats import entropy

    return lambda p, q: entropy(p, q, axis=1)


def scipy_jensenshannon():
    from scipy.spatial.distance import jensenshannon

    return lambda p, q: jensenshannon(p, q)


def scipy_cdist():
    from scipy.spatial.distance import cdist

    return lambda p, q: cdist(p, q, "jensenshannon")


def numkong_kl():
    import numkong

    return lambda p, q: numkong.kullbackleibler(p, q)


def numkong_js_distance():
    import numkong

    return lambda p, q: numkong.jensenshannon(p, q)


def numexpr_kl():
    import numexpr

    return lambda p, q: numexpr.evaluate("sum(p * log(p / q))", local_dict={"p": p, "q": q})


def numba_log_kl():
    @numba.njit(fastmath=True, error_model="numpy")
    def loop(p, q):
        total = 0.0
        for i in range(p.size):
            total += p[i] * math.log(p[i] / q[i])
        return total

    return lambda p, q: loop(p, q)


def torch_kl():
    import torch

    torch.set_num_threads(1)
    kl_div = torch.nn.functional.kl_div

    def divergence(p, q):
        return float(kl_div(torch.from_numpy(q).log(), torch.from_numpy(p), reduction="sum"))

    return divergence


def torch_pairwise_kl():
    import torch

    torch.set_num_threads(1)

    def pairwise(p, q):
        p, q = torch.from_numpy(p), torch.from_numpy(q)
        return ((p * p.log()).sum(1, keepdim=True) - p @ q.log().T).numpy()

    return pairwise


def numpy_pairwise_kl():
    def pairwise(p, q):
        return (p * np.log(p)).sum(axis=1, keepdims=True) - p @ np.log(q).T

    return pairwise


def numpy_dot():
    return lambda p, q: np.dot(p, q)


DISCRETE = (
    Comparison(
        work="kl, float64, n = 1e6",
        inputs=lambda: inputs.pair(10**6),
        exact=exact_kl,
        fastvi=fastvi_kl,
        peers=(
            Peer("scipy rel_entr().sum()", scipy_rel_entr, (22,)),
            Peer("numkong kullbackleibler", numkong_kl, (1.4,)),
            Peer("numexpr", numexpr_kl),
            Peer("numba + math.log", numba_log_kl),
            Peer("torch kl_div", torch_kl),
        ),
    ),
    Comparison(
        work="kl, float64, n = 1e7",
        inputs=lambda: inputs.pair(10**7),
        exact=exact_kl,
        fastvi=fastvi_kl,
        peers=(Peer("np.dot, the memory floor", numpy_dot, (0.5,), same_result=False),),
    ),
    Comparison(
        work="kl, float32, n = 1e6",
        inputs=lambda: inputs.pair(10**6, dtype="float32"),
        exact=exact_kl,
        fastvi=fastvi_kl,
        peers=(Peer("numkong kullbackleibler", numkong_kl, (0.9,)), Peer("torch kl_div", torch_kl)),
    ),
    Comparison(
        work="js distance, float64, n = 1e6",
        inputs=lambda: inputs.pair(10**6),
        exact=exact_js_distance,
        fastvi=fastvi_js_distance,
        peers=(
            Peer("scipy jensenshannon", scipy_jensenshannon, (25,)),
            Peer("numkong jensenshannon", numkong_js_distance, (1.4,)),
        ),
    ),
    Comparison(
        work="kl, n = 16, from Python",
        inputs=lambda: inputs.pair(16),
        exact=exact_kl,
        fastvi=fastvi_kl,
        peers=(
            Peer("scipy.stats.entropy", scipy_entropy, (50,)),
            Peer("scipy rel_entr().sum()", scipy_rel_entr, (0.8,)),
        ),
    ),
    Comparison(
        work="kl by rows, 10 x 16, from Python",
        inputs=lambda: inputs.pair((10, 16)),
        exact=exact_kl,
        fastvi=fastvi_kl,
        peers=(Peer("scipy rel_entr().sum(axis=1)", scipy_rel_entr_rows),),
    ),
    Comparison(
        work="pairwise js distance, 10 x 8 x 16, from Python",
        inputs=lambda: inputs.pair((10, 16), (8, 16)),
        exact=all_pairs(exact_js_distance),
        fastvi=fastvi_pairwise("js_distance"),
        peers=(Peer("scipy cdist jensenshannon", scipy_cdist),),
    ),
    Comparison(
        work="kl by rows, 100,000 x 256",
        inputs=lambda: inputs.pair((100_000, 256)),
        exact=by_rows(exact_kl),
        fastvi=fastvi_kl,
        peers=(Peer("scipy.stats.entropy(axis=1)", scipy_entropy_rows, (30, 50)),),
        threads=(1, 2),
    ),
    Comparison(
        work="pairwise js distance, 400 x 300 x 256",
        inputs=lambda: inputs.pair((400, 256), (300, 256)),
        exact=all_pairs(exact_js_distance),
        fastvi=fastvi_pairwise("js_distance"),
        peers=(Peer("scipy cdist jensenshannon", scipy_cdist, (12, 20)),),
        threads=(1, 2),
    ),
    Comparison(
        work="pairwise kl, 400 x 300 x 256",
        inputs=lambda: inputs.pair((400, 256), (300, 256)),
        exact=all_pairs(exact_kl),
        fastvi=fastvi_pairwise("kl"),
        peers=(
            Peer("scipy rel_entr, broadcast", scipy_rel_entr_broadcast, (150,)),
            Peer("NumPy, entropy and a matrix product", numpy_pairwise_kl),
            Peer("torch, entropy and a matrix product", torch_pairwise_kl),
        ),
    ),
)
