"""A fit of the worked example to x, the argument: mean and deviation of q."""

import math
import sys

import fastvi as fv


def log_joint(z, x):
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)


q = fv.fit(fv.Model(log_joint, 1, data=(float(sys.argv[1]),))).q
print([q.mean.tolist(), q.cov[0].tolist()])
