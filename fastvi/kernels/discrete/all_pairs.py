"""Loops over rows and over all pairs of rows, by the kernels of the divergences.

The faster methods of `fastvi.pairwise` are in `centred`.
"""

from __future__ import annotations

from ..borrowing import borrow
from ..compiler import Lazily, exported, specialise
from .divergences import KERNELS, kl_grad
from .registry import METRICS


def _rows(p, q, ip, iq, theta, mass, out):
    """Template (`whole`): out[k] = whole(p[ip[k]], q[iq[k]])."""
    p, q = borrow(p), borrow(q)
    for k in range(out.size):
        out[k] = whole(p[ip[k]], q[iq[k]], theta, mass)  # noqa: F821


def _pairs(p, q, theta, mass, out):
    """Template (`whole`): out[i, j] = whole(p[i], q[j]) where out[i, j] is NaN."""
    p, q = borrow(p), borrow(q)
    for i in range(p.shape[0]):
        for j in range(q.shape[0]):
            if out[i, j] != out[i, j]:
                out[i, j] = whole(p[i], q[j], theta, mass)  # noqa: F821


def _each(template, names, prefix, kind, suffix):
    return Lazily(
        {
            name: lambda name=name: specialise(
                template, f"_{prefix}{name}_{suffix}", exported, whole=getattr(KERNELS[name], kind)
            )
            for name in names
        }
    )


ROWS = _each(_rows, KERNELS, "", "whole", "rows")
LOG_ROWS = _each(_rows, KERNELS, "log_", "log", "rows")
PAIRS = _each(_pairs, METRICS, "", "whole", "pairs")


@exported
def kl_grad_rows(p, q, ip, iq, out, grad_p, grad_q):
    """`kl_grad` of each pair of rows p[ip[k]], q[iq[k]]."""
    for k in range(out.size):
        out[k] = kl_grad(p[ip[k]], q[iq[k]], grad_p[k], grad_q[k])
