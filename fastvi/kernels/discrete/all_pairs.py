"""Loops over pairs of rows, by the kernels of the divergences.

The faster methods of `fastvi.pairwise` are in `centred`.
"""

from __future__ import annotations

import math

from ..borrowing import borrow_to_read
from ..compiler import Lazily, exported, specialise
from . import short_rows
from .divergences import KERNELS, kl_grad


def _rows(p, q, ip, iq, theta, mass, out):
    """Template (`whole`, `many`): out[k] = whole(p[ip[k]], q[iq[k]]); returns whether no result is NaN."""
    p, q = borrow_to_read(p), borrow_to_read(q)
    found, held = many(p, q, ip, iq, theta, mass, out), True  # noqa: F821
    for k in range(out.size):
        if not found or math.isnan(out[k]):
            out[k] = whole(p[ip[k]], q[iq[k]], theta, mass)  # noqa: F821
            held &= out[k] == out[k]
    return held


def _each(prefix, kind):
    return Lazily(
        {
            name: lambda name=name: specialise(
                _rows,
                f"_{prefix}{name}_rows",
                exported,
                whole=getattr(KERNELS[name], kind),
                many=short_rows.assemble_many(name) if kind == "whole" else short_rows.none,
            )
            for name in KERNELS
        }
    )


ROWS = _each("", "whole")
LOG_ROWS = _each("log_", "log")


@exported
def kl_grad_rows(p, q, ip, iq, out, grad_p, grad_q):
    """`kl_grad` of each pair of rows p[ip[k]], q[iq[k]]."""
    for k in range(out.size):
        out[k] = kl_grad(p[ip[k]], q[iq[k]], grad_p[k], grad_q[k])
