"""Entropies and divergences of discrete distributions in arrays, and between all pairs of rows."""

from .all_pairs import pairwise
from .dependence import js_many, mutual_information
from .distances import alpha_divergence, bhattacharyya, chi2, hellinger, renyi, total_variation
from .information import (
    cross_entropy,
    entropy,
    jeffreys,
    js,
    js_distance,
    kl,
    kl_grad,
    renyi_entropy,
)

__all__ = [
    "alpha_divergence",
    "bhattacharyya",
    "chi2",
    "cross_entropy",
    "entropy",
    "hellinger",
    "jeffreys",
    "js",
    "js_distance",
    "js_many",
    "kl",
    "kl_grad",
    "mutual_information",
    "pairwise",
    "renyi",
    "renyi_entropy",
    "total_variation",
]
