"""Prints the table of `peers` at the end of a pytest run."""

from __future__ import annotations

# Programs are run by benchmarks, not imported for doctests.
collect_ignore = ["programs"]


def pytest_terminal_summary(terminalreporter):
    from .peers import report
    from .test_peers import measured

    if measured:
        terminalreporter.section("fastvi against its peers")
        terminalreporter.write_line(report(measured))


try:
    import pytest
except ImportError:
    pass  # asv imports every file here, also where there is no pytest
else:
    # After pytest-benchmark's own tables.
    pytest.hookimpl(trylast=True)(pytest_terminal_summary)
