"""What the command `fastvi tour` runs: the library at work on real data, part by part.

A part is a function that takes the `Tour`, says what it finds, and saves what it makes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from . import divergences as fv
from .data import old_faithful

#: Eruptions shorter than this (minutes) are the short kind: the histogram of durations has its gap there.
SHORT = 3.0

_DURATION_BINS = np.arange(1.5, 5.51, 0.5)
_WAITING_BINS = np.arange(40.0, 100.1, 5.0)


class Tour:
    """Prints and keeps what the parts say, and times what they compute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, line: str = "") -> None:
        """Print a line and keep it for the report."""
        print(line, flush=True)
        self.lines.append(line)

    def compute(self, what: str, function: Callable[[], float], meaning: Callable[[float], str]) -> float:
        """Say the value of `function`, what it means, and how long its first and a warm call take."""
        start = time.perf_counter()
        value = function()
        first = time.perf_counter() - start
        warm = math.inf
        for _ in range(50):
            start = time.perf_counter()
            function()
            warm = min(warm, time.perf_counter() - start)
        self.say(f"{what} = {value:.6f}   (first call {_duration(first)}, warm {_duration(warm)})")
        self.say(f"    {meaning(value)}")
        return value

    def save(self, name: str, header: str, table: np.ndarray) -> None:
        """Write a table as CSV into the folder."""
        np.savetxt(self.folder / name, table, delimiter=",", header=header, comments="", fmt="%.10g")

    def finish(self) -> None:
        """Write the report, and say where everything is."""
        self.say()
        self.say(f"Written to {self.folder.resolve()}:")
        names = sorted({path.name for path in self.folder.iterdir()} | {"tour.txt"})
        self.say("    " + ", ".join(names))
        (self.folder / "tour.txt").write_text("\n".join(self.lines) + "\n")


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def divergences(tour: Tour) -> None:
    """Old Faithful, binned: how much one half of the data tells about the other."""
    duration, waiting = old_faithful()
    short = duration < SHORT
    after_short = np.histogram(waiting[short], _WAITING_BINS)[0]
    after_long = np.histogram(waiting[~short], _WAITING_BINS)[0]
    table = np.column_stack([_WAITING_BINS[:-1], _WAITING_BINS[1:], after_short, after_long])
    tour.save("waiting.csv", "from_minutes,to_minutes,after_short,after_long", table)

    tour.say("Discrete divergences: the Old Faithful geyser (272 eruptions, Azzalini & Bowman 1990)")
    tour.say(
        f"{short.sum()} eruptions were shorter than {SHORT:g} minutes, {(~short).sum()} longer; waiting times"
    )
    tour.say(
        f"to the next one are counted in bins of 5 minutes. Results in nats, {math.log(2):.4f} nats a bit."
    )
    tour.say()
    for name, counts in (("short", after_short), ("long", after_long)):
        tour.compute(
            f"H(waiting after {name})",
            partial(fv.entropy, counts, mass="normalize"),
            lambda h: f"as uncertain as {math.exp(h):.1f} equally likely bins.",
        )

    raw = fv.kl(after_short, after_long, mass="normalize")
    tour.say(f"KL(after short ‖ after long), from the raw counts = {raw}")
    tour.say(
        "    infinite: some waits after short eruptions never occur after long ones. Nothing is hidden here;"
    )
    tour.say(
        "    whoever wants a finite number says what he adds. Below: half a count to each bin (Jeffreys)."
    )
    p, q = after_short + 0.5, after_long + 0.5
    tour.compute(
        "KL(after short ‖ after long)",
        partial(fv.kl, p, q, mass="normalize"),
        lambda _: "nats lost per wait by who expects a long eruption's waits after a short one.",
    )
    tour.compute(
        "KL(after long ‖ after short)",
        partial(fv.kl, q, p, mass="normalize"),
        lambda _: "the other way round: the two kinds of surprise are not the same.",
    )
    tour.compute(
        "JSD(after short, after long)",
        partial(fv.js, after_short, after_long, mass="normalize"),
        lambda d: (
            f"from the raw counts: finite, symmetric, {d / math.log(2):.0%} of its maximum log 2. "
            "One wait nearly tells which kind came before."
        ),
    )

    joint = np.histogram2d(duration, waiting, (_DURATION_BINS, _WAITING_BINS))[0]
    joint /= joint.sum()
    product = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    tour.save("joint.csv", ",".join(f"wait_from_{w:g}" for w in _WAITING_BINS[:-1]), joint)
    tour.compute(
        "Mutual information of (duration, waiting)",
        partial(fv.kl, joint.ravel(), product.ravel()),
        lambda _: "KL(joint ‖ product of its marginals): what a duration tells about the wait that follows.",
    )
    marginals = fv.entropy(joint.sum(axis=1)) + fv.entropy(joint.sum(axis=0))
    tour.say(
        f"    As a check, H(duration) + H(waiting) - H(both) = {marginals - fv.entropy(joint.ravel()):.6f}."
    )


PARTS: tuple[Callable[[Tour], None], ...] = (divergences,)


def run(folder: Path) -> None:
    """Go through all parts, writing to `folder`."""
    tour = Tour(folder)
    for part in PARTS:
        part(tour)
    tour.finish()
