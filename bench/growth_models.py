"""Posteriors of any size for `growth`: logistic regressions, and matches of players (Bradley & Terry)."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np

import fastvi as fv

#: Matches of each player.
MATCHES = 20


@numba.njit
def logistic(z, x, y):
    """Slopes have the prior N(0, 1)."""
    r = 0.0
    for j in range(z.size):
        r -= 0.5 * z[j] * z[j]
    for i in range(y.size):
        u = 0.0
        for j in range(z.size):
            u += x[i, j] * z[j]
        r += y[i] * u - max(u, 0.0) - math.log1p(math.exp(-abs(u)))
    return r


@numba.njit
def logistic_gradient(z, gradient, x, y):
    r = 0.0
    for j in range(z.size):
        r -= 0.5 * z[j] * z[j]
        gradient[j] = -z[j]
    for i in range(y.size):
        u = 0.0
        for j in range(z.size):
            u += x[i, j] * z[j]
        e = math.exp(-abs(u))
        r += y[i] * u - max(u, 0.0) - math.log1p(e)
        w = y[i] - (1.0 if u > 0.0 else e) / (1.0 + e)
        for j in range(z.size):
            gradient[j] += w * x[i, j]
    return r


@numba.njit
def matches(z, winner, loser):
    """Strengths have the prior N(0, 1)."""
    r = 0.0
    for j in range(z.size):
        r -= 0.5 * z[j] * z[j]
    for i in range(winner.size):
        u = z[winner[i]] - z[loser[i]]
        r += min(u, 0.0) - math.log1p(math.exp(-abs(u)))
    return r


@numba.njit
def matches_gradient(z, gradient, winner, loser):
    r = 0.0
    for j in range(z.size):
        r -= 0.5 * z[j] * z[j]
        gradient[j] = -z[j]
    for i in range(winner.size):
        u = z[winner[i]] - z[loser[i]]
        e = math.exp(-abs(u))
        r += min(u, 0.0) - math.log1p(e)
        w = (e if u > 0.0 else 1.0) / (1.0 + e)
        gradient[winner[i]] += w
        gradient[loser[i]] -= w
    return r


def rows(n, dim):
    """(x, y) of a regression."""
    rng = np.random.default_rng(20240229)
    x = 2.0 * rng.standard_normal((n, dim)) / math.sqrt(dim)
    chances = 1.0 / (1.0 + np.exp(-x @ rng.standard_normal(dim)))
    return x, (rng.random(n) < chances).astype(float)


def played(players):
    """(winner, loser) of each match."""
    rng = np.random.default_rng(20240229)
    strength, n = rng.standard_normal(players), MATCHES * players // 2
    one = rng.integers(0, players, n)
    other = (one + rng.integers(1, players, n)) % players
    won = rng.random(n) < 1.0 / (1.0 + np.exp(strength[other] - strength[one]))
    return np.where(won, one, other), np.where(won, other, one)


def fastvi_logistic(family):
    def fit(x, y):
        return fv.fit(fv.Model(logistic, x.shape[1], (x, y), log_joint_grad=logistic_gradient), family)

    return lambda size: fit


def fastvi_matches(family):
    def fit(players, *data):
        return fv.fit(fv.Model(matches, players, data, log_joint_grad=matches_gradient), family)

    return lambda players: functools.partial(fit, players)
