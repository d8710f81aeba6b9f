"""The digamma function against mpmath."""

import math

import mpmath as mp
import numpy as np

from fastvi.kernels.numerics.digamma import digamma
from helpers.forms import all_plain


def test_digamma():
    plain = all_plain(digamma)
    for x in 10.0 ** np.random.default_rng(4).uniform(-10, 10, 200):
        wanted = mp.digamma(mp.mpf(x))
        assert abs(plain(float(x)) - wanted) <= max(1e-15 / x, 1e-15 * (1 + abs(math.log(x)))) * 2
    assert math.isnan(plain(0.0))
    assert math.isnan(plain(-1.5))
