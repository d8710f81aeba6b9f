"""What the command `fastvi tour` runs: the library at work on real data, part by part.

A part is a function that takes the `Tour`, says what it finds, and saves what it makes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from . import divergences as fv
from .data import old_faithful
from .distributions import Gaussian, GaussianMixture
from .projections import Projection, i_projection, m_projection

#: Eruptions shorter than this (minutes) are the short kind: the histogram of durations has its gap there.
SHORT = 3.0

_DURATION_BINS = np.arange(1.5, 5.51, 0.5)
_WAITING_BINS = np.arange(40.0, 100.1, 5.0)


_Result = TypeVar("_Result")


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
        value, times = _timed(function)
        self.say(f"{what} = {value:.6f}   ({times})")
        self.say(f"    {meaning(value)}")
        return value

    def timed(self, what: str, function: Callable[[], Projection]) -> Projection:
        """Say how long the first and a warm call of `function` take, and return its result."""
        result, times = _timed(function)
        self.say(f"{what}   ({times})")
        return result

    def draw(self, name: str, p: GaussianMixture, m: Projection, i: Projection, **words: Any) -> None:
        """Write a picture of a mixture and its projections into the folder, if matplotlib is there."""
        try:
            from .plotting import plot_projection
        except ImportError:
            self.say(f"    (no {name}: pictures need matplotlib, pip install matplotlib)")
            return
        figure: Any = plot_projection(p, m, i, **words).figure
        figure.savefig(self.folder / name, dpi=150)

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


def _timed(function: Callable[[], _Result]) -> tuple[_Result, str]:
    """The result of `function`, and how long its first and a warm call took."""
    start = time.perf_counter()
    result = function()
    first = time.perf_counter() - start
    warm = math.inf
    for _ in range(50):
        start = time.perf_counter()
        function()
        warm = min(warm, time.perf_counter() - start)
    return result, f"first call {_duration(first)}, warm {_duration(warm)}"


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


#: Where maximum likelihood puts two Gaussians under (duration, waiting).
OLD_FAITHFUL_MIXTURE = (
    (0.35587286, 0.64412714),
    ((2.03638846, 54.47851644), (4.28966198, 79.96811524)),
    (
        ((0.06916768, 0.43516768), (0.43516768, 33.69728242)),
        ((0.16996843, 0.94060923), (0.94060923, 36.04621032)),
    ),
)


def _three_spokes() -> GaussianMixture:
    """Three long Gaussians that point to one middle."""
    means, covs = [], []
    for turn in (0.0, 1.0, 2.0):
        angle = 2.0 * math.pi * turn / 3.0
        c, s = math.cos(angle), math.sin(angle)
        rotation = np.array([[c, -s], [s, c]])
        means.append(rotation @ [0.0, 2.4])
        covs.append(rotation @ np.diag([0.25, 1.2]) @ rotation.T)
    return GaussianMixture([0.4, 0.35, 0.25], means, covs)


def _describe(q: Gaussian) -> str:
    sd = np.sqrt(np.diag(q.cov))
    correlation = q.cov[0, 1] / (sd[0] * sd[1])
    place = ", ".join(f"{m:.4g}" for m in q.mean)
    return f"mean ({place}), standard deviations ({sd[0]:.3g}, {sd[1]:.3g}), correlation {correlation:.2f}"


def _project(tour: Tour, p: GaussianMixture) -> tuple[Projection, Projection]:
    """Both projections, with their divergence, its error, and the time they took."""
    m = tour.timed("M-projection, KL(p ‖ q)", partial(m_projection, p))
    tour.say(f"    {m.kl:.9f} ± {m.error:.0e}: {_describe(m.q)}")
    i = tour.timed("I-projection, KL(q ‖ p)", partial(i_projection, p))
    for optimum in i.optima:
        tour.say(f"    {optimum.kl:.9f} ± {optimum.error:.0e}: {_describe(optimum.q)}")
    return m, i


def projections(tour: Tour) -> None:
    """Old Faithful as a mixture, and the one Gaussian that each direction of KL puts under it."""
    tour.say()
    tour.say("Projections: one Gaussian for a mixture of two, Old Faithful's two kinds of eruption")
    tour.say("The M-projection must cover both kinds, so it sits between them, where hardly an eruption is.")
    tour.say("The I-projection must not be where no eruption is, so it takes one kind; both are optima.")
    tour.say()
    p = GaussianMixture(*OLD_FAITHFUL_MIXTURE)
    m, i = _project(tour, p)
    tour.draw(
        "old_faithful.png",
        p,
        m,
        i,
        labels=("duration of an eruption, minutes", "wait for the next, minutes"),
        title="Old Faithful: one Gaussian for two kinds of eruption",
    )
    tour.say()
    tour.say("A mixture of three, whose I-projection has an optimum on each:")
    spokes = _three_spokes()
    tour.draw("three_optima.png", spokes, *_project(tour, spokes), title="Three places for one Gaussian")


PARTS: tuple[Callable[[Tour], None], ...] = (divergences, projections)


def run(folder: Path) -> None:
    """Go through all parts, writing to `folder`."""
    tour = Tour(folder)
    for part in PARTS:
        part(tour)
    tour.finish()
