"""EM for Gaussian mixtures, beside scikit-learn: the same starts, tolerances and covariances.

scikit-learn returns the log likelihood before its last M-step, and sweeps over the data once more for the
labels: as many sweeps as M-steps, plus one, as fastvi. Errors are those of minus the log likelihood.
"""

from __future__ import annotations

import functools
import warnings

import numpy as np

import fastvi as fv
from fastvi.data import old_faithful

from .contenders import Comparison, Peer

#: Tolerance of the mean log likelihood: for its change in scikit-learn, for the remaining gain in fastvi.
TOL = 1e-8

#: M-steps on the larger data, since the two tolerances do not mean the same.
STEPS = 20


@functools.cache
def geyser():
    x = np.column_stack(old_faithful())
    return x, fv.GaussianMixture([0.5, 0.5], [[2.0, 55.0], [4.5, 80.0]], [np.cov(x.T)] * 2)


@functools.cache
def clouds(n, k, d):
    """Points of a mixture whose components overlap, and a start near it."""
    rng = np.random.default_rng(20240229)
    centres = 2.5 * rng.standard_normal((k, d))
    x = centres[rng.integers(0, k, n)] + rng.standard_normal((n, d))
    return x, fv.GaussianMixture(np.full(k, 1.0 / k), centres + 0.5, [np.eye(d)] * k)


def plain_em(x, start, steps, dtype):
    """Minus the log likelihood after so many M-steps, by the textbook's formulas."""
    x, w, means, covs = (np.array(a, dtype) for a in (x, start.weights, start.means, start.covs))
    dim = x.shape[1]
    for step in range(steps + 1):
        columns = []
        for k in range(w.size):
            chol = np.linalg.cholesky(covs[k].astype(float)).astype(dtype)
            # One Newton step: NumPy factorizes a long double matrix in double precision.
            gap = covs[k] - chol @ chol.T
            inverse = np.linalg.inv(chol.astype(float)).astype(dtype)
            inner = inverse @ gap @ inverse.T
            chol = chol @ (np.eye(dim, dtype=dtype) + np.tril(inner, -1) + np.diag(np.diag(inner)) / 2)
            inverse = inverse @ (2 * np.eye(dim, dtype=dtype) - chol @ inverse)
            u = (x - means[k]) @ inverse.T
            constant = np.log(w[k]) - np.log(np.diag(chol)).sum() - dim * np.log(2 * np.pi) / 2
            columns.append(constant - (u * u).sum(axis=1) / 2)
        joint = np.stack(columns, axis=1)
        top = joint.max(axis=1, keepdims=True)
        evidence = top + np.log(np.exp(joint - top).sum(axis=1, keepdims=True))
        if step == steps:
            return -evidence.sum()
        r = np.exp(joint - evidence)
        mass = r.sum(axis=0)
        w, means = mass / len(x), (r.T @ x) / mass[:, None]
        covs = np.stack(
            [(r[:, k, None] * (x - means[k])).T @ (x - means[k]) / mass[k] for k in range(w.size)]
        )
    raise AssertionError


def fastvi_fit():
    return lambda x, start: -fv.fit_mixture(x, start.weights.size, start=start, tol=TOL).log_likelihood


def fastvi_steps():
    def fit(x, start):
        fitted = fv.fit_mixture(x, start.weights.size, start=start, tol=0.0, max_iterations=STEPS)
        return -fitted.trace[-2]

    return fit


def sklearn_fit(tol, steps):
    def load():
        from sklearn.mixture import GaussianMixture

        def fit(x, start):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it has not converged to a tolerance of 0
                fitted = GaussianMixture(
                    start.weights.size,
                    tol=tol,
                    max_iter=steps,
                    reg_covar=0.0,
                    weights_init=start.weights,
                    means_init=start.means,
                    precisions_init=np.linalg.inv(start.covs),
                ).fit(x)
            return -fitted.lower_bound_ * len(x)

        return fit

    return load


EM = (
    Comparison(
        work="fit_mixture, Old Faithful, to the same tolerance",
        inputs=geyser,
        exact=lambda x, start: plain_em(x, start, 100, np.longdouble),
        fastvi=fastvi_fit,
        peers=(Peer("sklearn GaussianMixture", sklearn_fit(TOL, 1000), (10,)),),
    ),
    Comparison(
        work=f"{STEPS} EM steps, n = 100,000, k = 5, d = 3",
        inputs=lambda: clouds(100_000, 5, 3),
        exact=lambda x, start: plain_em(x, start, STEPS - 1, np.float64),
        fastvi=fastvi_steps,
        peers=(Peer("sklearn GaussianMixture", sklearn_fit(0.0, STEPS), (10,)),),
    ),
)
