"""Calls at exit, of "short" or "long" arrays, with threads "started" before or "not"."""

import atexit
import sys
import threading

import numpy as np

import fastvi as fv
from long_pair import p, q

length, before = sys.argv[1:]
x, y = (p[:2] / p[:2].sum(), q[:2] / q[:2].sum()) if length == "short" else (p, q)


def last():
    value = fv.kl(x, y)
    value_by_rows = fv.kl(np.stack([x, x]), y)
    assert value > 0.0
    assert np.all(np.abs(value_by_rows / value - 1) < 1e-12)
    print("at exit", value > 0.0)


atexit.register(last)
# Runs earlier than atexit, when no new thread may be started any more.
threading._register_atexit(last)
if before == "started":
    fv.kl(p, q)
