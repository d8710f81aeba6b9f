"""Importing fastvi where the garbage collector is off."""

import gc

gc.disable()
import fastvi  # noqa: E402, F401

assert not gc.isenabled()
print("off")
