"""The report of a fit: a NamedTuple inside of kernels, a row of eight numbers outside."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..compiler import inlined
from ..statuses import FINE, RAISED, UNBOUNDED, ZERO


class Report(NamedTuple):
    """What is known of a fit; in arrays, numbers in this order. NaN: not known."""

    elbo: Any
    error: Any  #: of the ELBO
    gradient_norm: Any
    evaluations: Any  #: of the log joint, with those for differences
    status: Any
    steps: Any  #: accepted ones
    parameter_error: Any  #: of mean and factor, in units of q's spread
    sides: Any  #: of the finite differences for gradients: 1 or 2; 0 without such


#: Numbers of a report.
REPORT_SIZE = len(Report._fields)

#: The place of the status in a report.
STATUS = Report._fields.index("status")


@inlined
def no_fit(elbo, evaluations, status):
    """The report of a fit that could not start."""
    return Report(
        elbo=elbo,
        error=math.nan,
        gradient_norm=math.nan,
        evaluations=evaluations,
        status=status,
        steps=0,
        parameter_error=math.nan,
        sides=0,
    )


@inlined
def elbo_alone(elbo, error, evaluations):
    """The report of an ELBO without a fit."""
    return Report(
        elbo=elbo,
        error=error,
        gradient_norm=math.nan,
        evaluations=evaluations,
        status=FINE,
        steps=0,
        parameter_error=math.nan,
        sides=0,
    )


@inlined
def amended(report, more, status):
    """The same report with more evaluations and another status."""
    return Report(
        elbo=report.elbo,
        error=report.error,
        gradient_norm=report.gradient_norm,
        evaluations=report.evaluations + more,
        status=status,
        steps=report.steps,
        parameter_error=report.parameter_error,
        sides=report.sides,
    )


@inlined
def is_fault(report):
    """Whether its status says that the log joint was not finite or raised an exception."""
    return RAISED <= report.status <= ZERO


@inlined
def has_elbo(report):
    """Whether it is that of a fit with an ELBO."""
    return report.elbo > -math.inf and report.status != UNBOUNDED and not is_fault(report)


@inlined
def doubted(report, more, status, unseen):
    """The same report with more evaluations and so much more error; unless the status is FINE with that."""
    return Report(
        elbo=report.elbo,
        error=report.error + unseen,
        gradient_norm=report.gradient_norm,
        evaluations=report.evaluations + more,
        status=report.status if status == FINE else status,
        steps=report.steps,
        parameter_error=report.parameter_error,
        sides=report.sides,
    )


@inlined
def read_report(numbers):
    """The report with these numbers."""
    return Report(
        numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]
    )


@inlined
def write_report(report, out):
    """Write a report to an array (8,); its status."""
    out[0], out[1], out[2] = report.elbo, report.error, report.gradient_norm
    out[3], out[4], out[5] = report.evaluations, report.status, report.steps
    out[6], out[7] = report.parameter_error, report.sides
    return report.status
