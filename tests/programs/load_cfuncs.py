"""The C functions are imported, listed and declared without a compilation."""

import sys

import fastvi  # noqa: F401

assert "fastvi.cfuncs" not in sys.modules

from fastvi import cfuncs  # noqa: E402

assert cfuncs.header()
assert dir(cfuncs)
assert not cfuncs._loaded
