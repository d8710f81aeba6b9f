"""A picture in the file of the first argument, without pyplot."""

import sys

import fastvi as fv
from fastvi.plotting import plot_projection

p = fv.Gaussian([0, 0], [[1, 0], [0, 1]])
plot_projection(p).figure.savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
