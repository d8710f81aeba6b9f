"""Integrals of products of Gaussians: of one with many, and the derivatives of their sum.

The many are in lanes: coordinate by coordinate, so that loops along the components are vectorised.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..borrowing import Cube, Matrix, Vector
from ..compiler import adder, formula, inlined, kernel
from ..densities.gaussians import LOG_2PI
from ..numerics.elementary import exp, log
from ..numerics.matrices import add_up, dot, fill_vector

#: Components are padded to a multiple of this: the vectorised loops take so many at once, others one by one.
LANES = 8


class Lanes(NamedTuple):
    """Components side by side, S in all."""

    weights: Vector  #: (S,): what each counts, of any sign; 0 for those that pad
    means: Matrix  #: (D, S)
    covs: Cube  #: (D, D, S): their lower triangles
    factors: Cube  #: (D, D, S): the factors of sums of covariances, their diagonals inverted
    vectors: Matrix  #: (D, S): differences of means, over these factors
    values: Vector  #: (S,): the integrals of the products


@inlined
def make_lanes(size, dim):
    """Lanes for so many components."""
    padded = (size + LANES - 1) // LANES * LANES
    return Lanes(
        np.empty(padded),
        np.empty((dim, padded)),
        np.empty((dim, dim, padded)),
        np.empty((dim, dim, padded)),
        np.empty((dim, padded)),
        np.empty(padded),
    )


@kernel
def clear_lanes(lanes):
    """Standard normal components that count nothing."""
    dim, size = lanes.means.shape
    for n in range(size):
        lanes.weights[n] = 0.0
        for a in range(dim):
            lanes.means[a, n] = 0.0
            for b in range(a + 1):
                lanes.covs[a, b, n] = 1.0 if a == b else 0.0


@inlined
def set_lane(n, weight, mean, cov, lanes):
    """Write a component."""
    lanes.weights[n] = weight
    for a in range(mean.size):
        lanes.means[a, n] = mean[a]
        for b in range(a + 1):
            lanes.covs[a, b, n] = cov[a, b]


@formula
def _add_number(x, a, out):
    for n in range(out.size):
        out[n] = x[n] + a


@formula
def _subtract_product(x, y, out):
    for n in range(out.size):
        out[n] -= x[n] * y[n]


@formula
def _multiply(x, out):
    for n in range(out.size):
        out[n] *= x[n]


@formula
def _finish_coordinate(pivot, vector, logs):
    """Invert the root of a pivot, divide by it, and add to the logarithm of the product."""
    for n in range(logs.size):
        inverse = 1.0 / math.sqrt(pivot[n])
        u = vector[n] * inverse
        logs[n] -= 0.5 * (log(pivot[n]) + u * u)
        pivot[n] = inverse
        vector[n] = u


@formula
def _exponentiate(values):
    for n in range(values.size):
        values[n] = exp(values[n])


@kernel
def multiply_all(mean, cov, shift, lanes):
    """Write the integrals of the products of a component with all, without weights, times exp(-shift).

    `cov` is a lower triangle.
    """
    dim, factors, vectors, values = mean.size, lanes.factors, lanes.vectors, lanes.values
    fill_vector(-0.5 * dim * LOG_2PI - shift, values)
    for a in range(dim):
        _add_number(lanes.means[a], -mean[a], vectors[a])
        for b in range(a + 1):
            row = factors[a, b]
            _add_number(lanes.covs[a, b], cov[a, b], row)
            for c in range(b):
                _subtract_product(factors[a, c], factors[b, c], row)
            if b < a:
                _multiply(factors[b, b], row)
                _subtract_product(row, vectors[b], vectors[a])
        _finish_coordinate(factors[a, a], vectors[a], values)
    _exponentiate(values)


@formula
def _negate_product(x, out):
    for n in range(out.size):
        out[n] = -x[n] * out[n]


@formula
def _add_product(x, y, out):
    for n in range(out.size):
        out[n] += x[n] * y[n]


@adder
def _sum_of_three(x, y, z):
    s = 0.0
    for n in range(x.size):
        s += x[n] * y[n] * z[n]
    return s


@kernel
def weighted_sum(lanes):
    """The sum of weights times integrals."""
    return dot(lanes.weights, lanes.values)


@kernel
def add_derivatives(lanes, out):
    """Add the `weighted_sum` to out[0], and its derivatives in the mean and covariance of the one component.

    After `multiply_all`, whose factors and values it overwrites. Of the covariance the lower triangle.
    """
    factors, vectors, values = lanes.factors, lanes.vectors, lanes.values
    dim = vectors.shape[0]
    _multiply(lanes.weights, values)
    out[0] += add_up(values)
    # The inverse factors take the place of the factors.
    for b in range(dim):
        for a in range(b + 1, dim):
            row = factors[a, b]
            _multiply(factors[b, b], row)
            for c in range(b + 1, a):
                _add_product(factors[a, c], factors[c, b], row)
            _negate_product(factors[a, a], row)
    for a in range(dim):
        _multiply(factors[a, a], vectors[a])
        for c in range(a + 1, dim):
            _add_product(factors[c, a], vectors[c], vectors[a])
        out[1 + a] += dot(values, vectors[a])
    for a in range(dim):
        for b in range(a + 1):
            s = _sum_of_three(values, vectors[a], vectors[b])
            for c in range(a, dim):
                s -= _sum_of_three(values, factors[c, a], factors[c, b])
            out[1 + dim + a * dim + b] += 0.5 * s
