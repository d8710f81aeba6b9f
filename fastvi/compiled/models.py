"""The constructor of `Model` inside the user's `numba.njit` code."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import overload

from .. import kernels
from ..inference.model import Model
from ..kernels.models.kinds import INTERVAL, LOWER, ORDERED, REAL, SIMPLEX, UPPER
from .types import ModelType, constant, is_floats, is_none, maker

#: Kind of a latent coordinate by the word that declares it.
_KINDS = {
    "real": REAL,
    "positive": LOWER,
    "lower": LOWER,
    "upper": UPPER,
    "interval": INTERVAL,
    "simplex": SIMPLEX,
    "ordered": ORDERED,
    "positive_ordered": ORDERED,
}


def _word_and_ends(support):
    """(the word of a support, the number of ends in its tuple)."""
    if isinstance(support, types.BaseTuple):
        return support.types[0], len(support.types) - 1
    return support, 0


@overload(Model, prefer_literal=True)
def _overload_model(log_joint, dim, data=(), support="real", log_joint_grad=None, theta=None):
    if not isinstance(log_joint, types.Dispatcher):
        raise TypingError(
            f"fastvi.Model in compiled code takes a jitted log_joint(z, *data), not {log_joint}"
        )
    if not is_none(log_joint_grad):
        raise TypingError(
            "fastvi.Model in compiled code takes no log_joint_grad: fits there are by quadrature, "
            "which needs none"
        )
    if not isinstance(dim, types.IntegerLiteral) or dim.literal_value < 1:
        raise TypingError("fastvi.Model: dim must be a positive constant in compiled code")
    left_out = getattr(data, "value", data) == ()
    if not (left_out or isinstance(data, types.BaseTuple)):
        raise TypingError(f"fastvi.Model: data must be a tuple, not {data}: write (x,) for one item")
    word, ends = _word_and_ends(support)
    code = constant("Model", "support", word, _KINDS)
    if ends != {"lower": 1, "upper": 1, "interval": 2}.get(getattr(word, "literal_value", ""), 0):
        raise TypingError(
            "fastvi.Model: support must be 'real', 'positive', 'simplex', 'ordered', 'positive_ordered', "
            "('lower', a), ('upper', b) or ('interval', a, b) in compiled code, for all coordinates, "
            f"not {support}: make other models in Python, and pass them"
        )
    size = dim.literal_value
    simplex = code == SIMPLEX
    word = getattr(word, "literal_value", "")
    first = {"ordered": REAL, "positive_ordered": LOWER}.get(word, code)
    latent = size - 1 if simplex else size
    if latent < 1:
        raise TypingError("fastvi.Model: a simplex has at least two coordinates")
    has_theta = not is_none(theta)
    held = () if left_out else data.types
    if has_theta:
        if not is_floats(theta, 1):
            raise TypingError(f"fastvi.Model: theta must be a 1-D float array in compiled code, not {theta}")
        held = (theta, *held)
    held = tuple(types.unliteral(kind) for kind in held)
    make = maker(ModelType(log_joint, size, latent, code == REAL, types.BaseTuple.from_types(held)))

    def compiled(
        log_joint,
        dim,
        data=(),
        support="real",
        log_joint_grad=None,
        theta=None,
    ):
        kinds, bounds = np.empty(latent, np.int64), kernels.numerics.matrices.filled_matrix(latent, 2, 0.0)
        for i in range(latent):
            kinds[i] = code
            if simplex:
                bounds[i, 0] = latent - i
            bounds[i, 0], bounds[i, 1] = _ends(support, bounds[i, 0])
        kinds[0] = first
        return make((_with_theta(theta, data), kinds, bounds))

    return compiled


def _ends(support, otherwise):
    raise NotImplementedError


@overload(_ends, prefer_literal=True)
def _overload_ends(support, otherwise):
    if not isinstance(support, types.BaseTuple):
        return lambda support, otherwise: (otherwise, 0.0)
    word = support.types[0].literal_value
    if word == "lower":
        return lambda support, otherwise: (float(support[1]), 0.0)
    if word == "upper":
        return lambda support, otherwise: (0.0, float(support[1]))
    return lambda support, otherwise: (float(support[1]), float(support[2]))


def _with_theta(theta, data):
    raise NotImplementedError


@overload(_with_theta)
def _overload_with_theta(theta, data):
    if is_none(theta):
        return lambda theta, data: data
    return lambda theta, data: (theta, *data)
