"""The nodes of a lattice as one array, and mixtures in the frame in which it is laid."""

import itertools

import numpy as np

from fastvi.kernels.densities import mixtures
from fastvi.kernels.quadrature import lattice as lattice_
from helpers.mixtures import arrays


def enumerated(steps, shift, radius, dim, form):
    """All nodes (N, 3) and weights that come out of the blocks."""
    nodes, cursor = np.empty((4, lattice_.BLOCK + lattice_.PADDING)), np.zeros(6, np.int64)
    bell = np.empty(lattice_.MOST_ACROSS + lattice_.PADDING)
    form(lattice_.rewind)(cursor, steps, shift, radius, dim, bell)
    points, weights = [], []
    while count := form(lattice_.next_block)(cursor, steps, shift, radius, dim, bell, nodes):
        assert count <= lattice_.BLOCK
        block = np.zeros((count, 3))
        block[:, 0] = nodes[0, :count]
        block[:, 1] = nodes[1, :count]
        block[:, 2] = nodes[2, 0]
        points.append(block)
        weights.append(nodes[3, :count].copy())
    assert form(lattice_.next_block)(cursor, steps, shift, radius, dim, bell, nodes) == 0
    return np.concatenate(points), np.concatenate(weights)


def powers(points):
    return {
        (a, b, c): points[:, 0] ** a * points[:, 1] ** b * points[:, 2] ** c
        for a, b, c in itertools.product(range(5), repeat=3)
        if a + b + c <= 4
    }


def in_frame(p, mean, factor, form=lambda f: f):
    coefficients = np.zeros((len(p.weights), 13))
    form(mixtures.write_coefficients)(mixtures.Mixture(*arrays(p)), mean, factor, coefficients, np.empty(3))
    return coefficients


def embed(points, mean, factor):
    return mean + points[:, : mean.size] @ factor.T
