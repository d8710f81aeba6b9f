"""All comparisons with peers. `test_peers` and `peers` measure what is listed here.

A peer is imported when it is measured, so that a missing one costs its own row only.
"""

from __future__ import annotations

from .compiled import COMPILED
from .discrete import DISCRETE
from .doors import DOORS
from .em import EM
from .inference import INFERENCE
from .projections import PROJECTIONS

COMPARISONS = (*DISCRETE, *PROJECTIONS, *EM, *INFERENCE, *COMPILED, *DOORS)
