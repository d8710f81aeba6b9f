"""Truncated Gaussians, against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

import fastvi as fv
from reference.inference import posterior_nodes


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (-math.inf, -1.0), (2.0, 2.5), (30.0, math.inf)])
def test_truncated_gaussians(low, high):
    q = fv.TruncatedGaussian(0.3, 1.2, low, high)
    exact = stats.truncnorm((low - 0.3) / 1.2, (high - 0.3) / 1.2, 0.3, 1.2)
    assert abs(q.mean[0] / exact.mean() - 1) <= 1e-12
    x = q.sample(50, 0)
    np.testing.assert_allclose(q.logpdf(x), exact.logpdf(x[:, 0]), rtol=1e-10, atol=1e-10)
    assert ((x >= low) & (x <= high)).all()
    if low < 30.0:  # where SciPy's moments hold
        assert abs(q.cov[0, 0] / exact.var() - 1) <= 1e-9
        nodes, weight = posterior_nodes("box", [max(low, -15.0)], [min(high, 15.0)], 400)
        log_density = exact.logpdf(nodes[:, 0])
        assert abs(q.entropy() + (np.exp(log_density + weight) * log_density).sum()) <= 1e-9
    assert stats.kstest(q.sample(4000, 2)[:, 0], exact.cdf).pvalue > 1e-3
