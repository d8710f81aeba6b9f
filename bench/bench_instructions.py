"""Instruction counts of the hot loops, which do not depend on the load of the machine."""

from __future__ import annotations

from . import sizes
from .instructions import HOT, hot_loop


class HotLoops:
    params = sizes(*HOT)
    param_names = ("loop",)
    unit = "instructions"
    timeout = 300

    def setup_cache(self):
        return {name: hot_loop(*HOT[name]) for name in self.params}

    def track_instructions(self, loops, loop):
        """Instructions of the innermost loop; 0 where it is not vectorised."""
        return loops[loop].total if loops[loop].vectorised else 0
