"""Three iterations of EM for the points in the file of the first argument, saved as the second."""

import sys

import numpy as np

import fastvi as fv

x = np.load(sys.argv[1])
start = fv.GaussianMixture([0.5, 0.5], [x[0], x[-1]], [np.cov(x.T)] * 2)
fit = fv.fit_mixture(x, 2, start=start, max_iterations=3, tol=0.0, min_cov=0.5)
np.savez(sys.argv[2], trace=fit.trace, means=fit.mixture.means, r=fit.responsibilities, steps=fit.floor_steps)
