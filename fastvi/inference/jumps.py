"""Log joints that jump, as that of a switch point does: gradients at draws leave out what a jump does."""

from __future__ import annotations

import math

import numpy as np

from ..common.values import Array
from ..distributions.gaussian import Gaussian
from .expectations import fixed_draws
from .kernel_calls import densities_or_zero
from .model import Model

#: Pairs of draws around which jumps are searched, the length of the steps in each of q's deviations, and the
#: dimensions up to which it is this: in more the steps are as long as in so many.
_PAIRS, _WIDTH, _DIM = 8, 0.4, 10

#: Steps are halved so many times as long as the second difference is above this, which that of a smooth
#: function is not for long, nor that of a kink.
_HALVINGS, _LEAST = 12, 0.1


def unseen_gradient(model: Model, mean: Array, factor: Array) -> tuple[float, int]:
    """(Jumps of the log joint for each deviation of q that it moves, in nats; evaluations).

    That is, up to signs, the part of the ELBO's gradient in the mean that draws' gradients lack.
    """
    q, dim = Gaussian._from_factor(mean, factor), mean.size
    draws = fixed_draws(3, _PAIRS, dim)
    width = _WIDTH * min(1.0, math.sqrt(_DIM / dim))
    signs = np.where(np.random.default_rng(dim).random(draws.shape) < 0.5, -width, width)
    ends = [mean + q._spread(draws + k * signs) for k in (-0.5, 0.5)]
    middle = 0.5 * (ends[0] + ends[1])
    *values, between = densities_or_zero(model, np.concatenate([*ends, middle])).reshape(3, -1)
    used = 3 * len(draws)
    for k in range(_HALVINGS):
        if k:
            middle = 0.5 * (ends[0] + ends[1])
            between = densities_or_zero(model, middle)
            used += len(middle)
        with np.errstate(invalid="ignore"):
            first, last = between - values[0], values[1] - between
            chosen = np.abs(last - first) > _LEAST
        chosen &= np.isfinite(first) & np.isfinite(last)
        # On with the half that has the larger difference.
        falls = (np.abs(first) > np.abs(last))[chosen]
        ends = [
            np.where(falls[:, None], ends[0][chosen], middle[chosen]),
            np.where(falls[:, None], middle[chosen], ends[1][chosen]),
        ]
        values = [
            np.where(falls, values[0][chosen], between[chosen]),
            np.where(falls, between[chosen], values[1][chosen]),
        ]
        if not chosen.any():
            break
    return float(np.abs(values[1] - values[0]).sum()) / (len(draws) * width), used
