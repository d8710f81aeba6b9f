"""The words that results give for the numbers in `fastvi.kernels.statuses`."""

from __future__ import annotations

from ..kernels import statuses as _numbers

#: Fits of q and expectations: how the computation ended, or what is wrong with the log joint.
WORDS = {
    _numbers.CONVERGED: "converged",
    _numbers.STEPS_EXHAUSTED: "the steps were used up before the gradient was small",
    _numbers.UNRESOLVED: "the quadrature does not resolve the log joint to the requested accuracy",
    _numbers.NOT_A_MAXIMUM: "not a strict maximum: the Hessian of the ELBO is not negative definite",
    _numbers.STUCK: "no step raises the ELBO further, but the gradient is not small",
    _numbers.OVERFITTED: "fresh draws find a lower ELBO than the fixed ones promise: too few draws",
    _numbers.UNBOUNDED: "the mean or covariance of q grows without bound: the posterior is improper",
    _numbers.CONTRADICTED: "another start of this call reached a higher ELBO: this is not the best q",
    _numbers.UNCONFIRMED: "the density has other peaks, or q is not close: another q may be better",
    _numbers.EMPTY: "a data array is empty",
    _numbers.RAISED: "log_joint raised an exception",
    _numbers.NOT_A_NUMBER: "log_joint is nan",
    _numbers.INFINITE: "log_joint is +inf",
    _numbers.ZERO: "log_joint is -inf",
    _numbers.SATURATED: "q has mass where z cannot be told from a bound of its support in double precision",
    _numbers.WRONG_GRADIENT: "log_joint_grad is not the gradient of log_joint",
}

#: EM for mixtures.
EM_WORDS = {
    _numbers.CONVERGED: "converged",
    _numbers.STEPS_EXHAUSTED: "not converged: the iterations ran out",
    _numbers.SINGULAR: "stopped: a covariance became singular, and min_cov=0 sets no floor",
}

#: Projections.
PROJECTION_WORDS = {
    _numbers.CONVERGED: "converged",
    _numbers.STEPS_EXHAUSTED: "the steps were used up before their size fell below the tolerance",
    _numbers.UNRESOLVED: (
        "the quadrature would need too many nodes: the divergence is less accurate than requested"
    ),
    _numbers.NOT_A_MINIMUM: "not a strict minimum: the Hessian is not positive definite",
    _numbers.NOT_FINITE: "no finite value",
    _numbers.OVERFITTED: "q still changes at the largest number of nodes or draws",
    _numbers.NOT_REFINED: "not refined: its divergence is far above that of the best optimum",
    _numbers.COARSE_GRID: "the grid is too coarse or too small for the requested accuracy",
}

#: Variational EM for a model's theta.
ROUNDS_EXHAUSTED = "the rounds were used up before theta converged"
NOT_RISING = "a step of theta lowers the ELBO: q's own fit is not accurate enough"

#: Stochastic gradients.
ALL_STEPS_TAKEN = "all steps taken (no stopping rule)"
STEP_NOT_FINITE = "a step led to parameters that are not finite"


def is_fault(status: float) -> bool:
    """Whether the status says that the log joint was not finite or raised an exception."""
    return bool(_numbers.RAISED <= status <= _numbers.ZERO)
