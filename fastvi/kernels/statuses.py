"""What became of a computation: one number for each outcome.

The words for people that belong to the numbers are in the API.
"""

# C functions only.
INVALID = -1  #: entries that no distribution has, or a sum that `mass` does not allow
BAD_ARGUMENT = -2  #: a size, a code or a parameter out of its range
NO_MEMORY = -3

FINE = 0  #: as good as was asked
CONVERGED = FINE  #: the same, of an iteration

# Where an iteration stopped short.
STEPS_EXHAUSTED = 1
UNRESOLVED = 2  #: the quadrature does not reach the accuracy
NOT_A_MAXIMUM = 3  #: the Hessian is not negative definite
NOT_A_MINIMUM = NOT_A_MAXIMUM  #: the same of a function to minimise: its Hessian is not positive definite
STUCK = 4  #: no step raises the ELBO
OVERFITTED = 5  #: fresh draws find less than the fixed ones promise
UNBOUNDED = 6  #: q spreads or moves off without end: the posterior is improper

# Projections.
NOT_FINITE = 7  #: a divergence has no finite value
COARSE_GRID = 8  #: the grid of p does not reach the accuracy
NOT_REFINED = 18  #: far above the best optimum, and left on coarse nodes

#: A data set of a batch has an empty array: nothing was computed.
EMPTY = 9

CONTRADICTED = 10  #: another start of the same call has a higher ELBO

# Faults of a log joint where q has mass: from RAISED to ZERO.
RAISED = 11  #: it raised an exception
NOT_A_NUMBER = 12  #: it was NaN
INFINITE = 13  #: it was +inf
ZERO = 14  #: it was -inf

#: A fit from Laplace's approximation converged, but the log density on lines through q does not show that no
#: other q is better, and that the posterior is proper: compiled code does not search, and the API does.
UNCONFIRMED = 15

WRONG_GRADIENT = 16  #: what is given for the gradient of the log joint is not its gradient
SATURATED = 17  #: q has mass where floats do not tell z from a bound of its support

# EM for mixtures.
SINGULAR = 20  #: a covariance is singular, and no floor was set
OUT_OF_RANGE = 21  #: a log likelihood is not finite
