"""A forked child uses the scratch space that it inherits."""

import os

import fastvi as fv

p = fv.GaussianMixture([0.4, 0.6], [-1, 2], [1, 0.5])
value = fv.kl_estimate(p, fv.Gaussian(0, 1)).value
child = os.fork()
if not child:
    os._exit(0 if fv.kl_estimate(p, fv.Gaussian(0, 1)).value == value else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
