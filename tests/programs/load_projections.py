"""A projection, and what it does not load."""

import sys

import fastvi as fv

fv.i_projection(fv.Gaussian(0, 1))
assert not {"matplotlib", "scipy.stats"} & set(sys.modules)
