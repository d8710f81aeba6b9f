"""Posteriors of any size for `growth`: logistic regressions, and matches of players (Bradley & Terry)."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np

import fastvi as fv

#: Matches of each player.
MATCHES = 20

#: Rows whose exponentials and logarithms are taken together, eight at once.
BLOCK = 1024

exp, log = fv.kernels.elementary.exp, fv.kernels.elementary.log


@numba.njit
def log_chances(u, y, decays, terms):
    """The sum of the log chances of outcomes y, 0 or 1, whose log odds are u; exp(-|u|) is written."""
    for i in range(u.size):
        decay = exp(-abs(u[i]))
        decays[i] = decay
        terms[i] = y[i] * u[i] - max(u[i], 0.0) - log(1.0 + decay)
    return terms[: u.size].sum()


@numba.njit
def residuals(u, y, decays, out):
    """Write y less its chance."""
    for i in range(u.size):
        out[i] = y[i] - (1.0 if u[i] > 0.0 else decays[i]) / (1.0 + decays[i])
    return out[: u.size]


@numba.njit
def logistic(z, x, y):
    """Slopes have the prior N(0, 1)."""
    r = -0.5 * np.dot(z, z)
    decays, terms = np.empty(BLOCK), np.empty(BLOCK)
    for low in range(0, y.size, BLOCK):
        u = np.dot(x[low : low + BLOCK], z)
        r += log_chances(u, y[low : low + BLOCK], decays, terms)
    return r


@numba.njit
def logistic_gradient(z, gradient, x, y):
    r = -0.5 * np.dot(z, z)
    gradient[:] = -z
    decays, terms = np.empty(BLOCK), np.empty(BLOCK)
    for low in range(0, y.size, BLOCK):
        part, seen = x[low : low + BLOCK], y[low : low + BLOCK]
        u = np.dot(part, z)
        r += log_chances(u, seen, decays, terms)
        gradient += np.dot(residuals(u, seen, decays, terms), part)
    return r


@numba.njit
def leads(z, winner, loser, low, u):
    """Those of the winners in matches from `low`, as many as fit."""
    count = min(u.size, winner.size - low)
    for i in range(count):
        u[i] = z[winner[low + i]] - z[loser[low + i]]
    return u[:count]


@numba.njit
def matches(z, winner, loser):
    """Strengths have the prior N(0, 1)."""
    r, won = -0.5 * np.dot(z, z), np.ones(BLOCK)
    decays, terms, space = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for low in range(0, winner.size, BLOCK):
        r += log_chances(leads(z, winner, loser, low, space), won, decays, terms)
    return r


@numba.njit
def matches_gradient(z, gradient, winner, loser):
    r, won = -0.5 * np.dot(z, z), np.ones(BLOCK)
    gradient[:] = -z
    decays, terms, space = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    for low in range(0, winner.size, BLOCK):
        u = leads(z, winner, loser, low, space)
        r += log_chances(u, won, decays, terms)
        rest = residuals(u, won, decays, terms)
        for i in range(u.size):
            gradient[winner[low + i]] += rest[i]
            gradient[loser[low + i]] -= rest[i]
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
