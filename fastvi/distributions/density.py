"""What the distributions with a density share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..common.immutable import Immutable


class Density(Immutable):
    """A distribution that gives the logarithm of its density; immutable."""

    __slots__ = ()

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): a float for one point, else an array (...)."""
        raise NotImplementedError

    def pdf(self, z: ArrayLike) -> Any:
        """The density at `z`, shape (..., D): a float for one point, else an array (...)."""
        value = self.logpdf(z)
        return math.exp(value) if isinstance(value, float) else np.exp(value)
