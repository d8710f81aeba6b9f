"""fastvi beside its peers: ``pytest bench --benchmark-only``.

asv imports every module here, in environments without pytest: nothing is imported from it at the top.
"""

from __future__ import annotations

from .comparisons import COMPARISONS
from .contenders import UnavailableError, error_of, prepared, ready
from .peers import Measured, Measurements

#: What `conftest` prints at the end.
measured: Measurements = {}


def pytest_generate_tests(metafunc):
    cases = [(comparison, contender) for comparison in COMPARISONS for contender in comparison.contenders()]
    ids = [f"{comparison.work}: {contender.name}" for comparison, contender in cases]
    metafunc.parametrize(("comparison", "contender"), cases, ids=ids)


def test_peers(benchmark, comparison, contender):
    import pytest

    key = comparison.work, contender.name
    benchmark.group, benchmark.name = key
    try:
        function = ready(contender)
    except UnavailableError as reason:
        measured[key] = Measured(missing=str(reason))
        pytest.skip(str(reason))
    arguments, exact = prepared(comparison)
    error = error_of(comparison, contender, function(*arguments), exact)  # this call compiles
    benchmark.extra_info["error"] = error
    benchmark.extra_info["threads"] = contender.threads
    benchmark(function, *arguments)
    if benchmark.stats is not None:  # --benchmark-disable
        measured[key] = Measured(benchmark.stats.stats.min, benchmark.stats.stats.median, error)
