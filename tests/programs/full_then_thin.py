"""A kernel called from Python, then a user's function that links one of the functions in it.

LLVM changes how a function is called that is private to a module: here, it drops the arguments that the
function does not use. The user's function must not find that one by its name.
"""

import numpy as np
from numba import njit

from fastvi.kernels.compiler import kernel
from fastvi.kernels.numerics.matrices import cholesky


@kernel
def in_full(a, b, out):
    return cholesky(a, out) and cholesky(b, out)


@njit
def of_a_user(a, b, out):
    return cholesky(a, out) and cholesky(b, out)


a, b, out = np.eye(3), 4.0 * np.eye(3), np.empty((3, 3))
for function in (in_full, of_a_user):
    assert function(a, b, out)
    assert (np.tril(out) == 2.0 * np.eye(3)).all()
print("fine")
