"""The command `fastvi tour`: the library at work on real data, part by part.

A part is a function of the `Tour`, which prints its findings and writes its tables and pictures to a folder;
`page` makes one page of them.
"""

from __future__ import annotations

import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from . import discrete as fv
from .common.values import Array
from .data import old_faithful
from .distributions.gaussian import Gaussian
from .distributions.integrals import Estimate
from .distributions.mixture import GaussianMixture
from .em.fitting import fit_mixture
from .em.result import MixtureFit
from .inference.batches import FitBatch, fit_batch
from .inference.evidence import decompose, log_evidence
from .inference.expectations import elbo, elbo_grad
from .inference.fitting import fit
from .inference.model import Model
from .inference.results import Fit
from .page import Item, page
from .projections.projections import i_projection, m_projection
from .projections.result import Projection

#: Eruptions shorter than this (minutes) are the short kind: the histogram of durations has its gap there.
SHORT = 3.0

_DURATION_BINS = np.arange(1.5, 5.51, 0.5)
_WAITING_BINS = np.arange(40.0, 100.1, 5.0)

#: Seconds after which no further warm call is timed, and the largest number of them.
_PATIENCE = 0.5
_WARM_CALLS = 50

_Result = TypeVar("_Result")


class Tour:
    """Prints and keeps the lines of the parts, and times what they compute."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sections: list[list[Item]] = [[]]
        folder.mkdir(parents=True, exist_ok=True)

    def say(self, line: str = "") -> None:
        """Print a line, and keep it for the report."""
        print(line, flush=True)
        self.sections[-1].append(Item("line", line))

    def compute(self, what: str, function: Callable[[], float], meaning: Callable[[float], str]) -> float:
        """Say the value of `function`, what it means, and the times of a first and of a warm call."""
        value, times = _timed(function)
        self.say(f"{what} = {value:.6f}   ({times})")
        self.say(f"    {meaning(value)}")
        return value

    def timed(self, what: str, function: Callable[[], _Result]) -> _Result:
        """Say the times of a first and of a warm call of `function`, and return its result."""
        result, times = _timed(function)
        self.say(f"{what}   ({times})")
        return result

    def progress(self, what: str) -> Callable[..., Iterator[int]]:
        """A `range` that shows its progress, on a terminal only."""

        def steps(first: int, last: int, step: int) -> Iterator[int]:
            if not sys.stderr.isatty():
                yield from range(first, last, step)
                return
            for i in range(first, last, step):
                print(f"\r    {what}: {i / last:4.0%}", end="", file=sys.stderr, flush=True)
                yield i
            print(f"\r    {what}: done", file=sys.stderr, flush=True)

        return steps

    def draw(self, name: str, picture: Callable[[Any], Any]) -> None:
        """Write the figure that `picture` draws with `plotting`, if matplotlib is installed."""
        try:
            from . import plotting
        except ImportError:
            self.say(f"    (no {name}: pictures need matplotlib, pip install matplotlib)")
            return
        picture(plotting).figure.savefig(self.folder / name, dpi=150, bbox_inches="tight")
        self.sections[-1].append(Item("picture", name))

    def save(self, name: str, header: str, table: np.ndarray) -> None:
        """Write a table as CSV into the folder."""
        np.savetxt(self.folder / name, table, delimiter=",", header=header, comments="", fmt="%.10g")
        self.sections[-1].append(Item("table", name))

    def finish(self) -> None:
        """Write the report, as a page and as text, and say where the files are."""
        names = {path.name for path in self.folder.iterdir()} | {"tour.html", "tour.txt"}
        page_of_all = page("fastvi at work", self.sections, self.folder)
        self.say()
        self.say(f"Written to {self.folder.resolve()}:")
        self.say("    " + ", ".join(sorted(names)))
        self.say("Open tour.html in a browser: it has all of this, with the pictures.")
        lines = [item.content for section in self.sections for item in section if item.kind == "line"]
        (self.folder / "tour.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (self.folder / "tour.html").write_text(page_of_all, encoding="utf-8")


def _timed(function: Callable[[], _Result]) -> tuple[_Result, str]:
    """The result of `function`, and the times of its first and its fastest warm call."""
    start = time.perf_counter()
    result = function()
    first = time.perf_counter() - start
    warm = math.inf
    end = time.perf_counter() + _PATIENCE
    for _ in range(_WARM_CALLS):
        start = time.perf_counter()
        function()
        warm = min(warm, time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return result, f"first call {_duration(first)}, warm {_duration(warm)}"


def _duration(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def divergences(tour: Tour) -> None:
    """Old Faithful, binned: entropies and divergences of the waiting times after short and long eruptions."""
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


def _three_spokes() -> GaussianMixture:
    """Three long Gaussians that point to a common centre."""
    means, covs = [], []
    for k in (0.0, 1.0, 2.0):
        angle = 2.0 * math.pi * k / 3.0
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
    """Both projections, with their divergences, errors and times."""
    m = tour.timed("M-projection, KL(p ‖ q)", partial(m_projection, p))
    tour.say(f"    {m.kl:.9f} ± {m.error:.0e}: {_describe(m.q)}")
    i = tour.timed("I-projection, KL(q ‖ p)", partial(i_projection, p))
    for optimum in i.optima:
        tour.say(f"    {optimum.kl:.9f} ± {optimum.error:.0e}: {_describe(optimum.q)}")
    return m, i


def _eruptions(tour: Tour) -> GaussianMixture:
    """Two Gaussians under (duration, waiting), by maximum likelihood."""
    x = np.column_stack(old_faithful())
    # A gain of 1e-18 in the mean log likelihood means eight correct digits of the parameters.
    found: MixtureFit = tour.timed("EM, 10 restarts", partial(fit_mixture, x, 2, tol=1e-18))
    tour.say(f"    log likelihood {found.log_likelihood:.5f}, {found.status}, {found.iterations} iterations")
    for weight, part in zip(found.mixture.weights, found.mixture.components, strict=True):
        tour.say(f"    {weight:.1%} of the eruptions: {_describe(part)}")
    tour.draw(
        "em_trace.png",
        lambda plotting: plotting.plot_trace(found, title="EM on Old Faithful: the likelihood never falls"),
    )
    return found.mixture


def projections(tour: Tour) -> None:
    """Old Faithful as a mixture, and its projections onto one Gaussian in both directions of KL."""
    tour.say()
    tour.say("Projections: one Gaussian for a mixture of two, Old Faithful's two kinds of eruption")
    tour.say("The mixture is the maximum-likelihood fit: EM, whose q of the labels is the exact posterior.")
    tour.say("The M-projection must cover both kinds, so it sits between them, where hardly an eruption is.")
    tour.say("The I-projection must not be where no eruption is, so it takes one kind; both are optima.")
    tour.say()
    p = _eruptions(tour)
    m, i = _project(tour, p)
    words: dict[str, Any] = {
        "labels": ("duration of an eruption, minutes", "wait for the next, minutes"),
        "title": "Old Faithful: one Gaussian for two kinds of eruption",
    }
    tour.draw("old_faithful.png", lambda plotting: plotting.plot_projection(p, m, i, **words))
    tour.say()
    tour.say("A mixture of three, whose I-projection has an optimum on each:")
    spokes = _three_spokes()
    pair = _project(tour, spokes)
    title = "Three places for one Gaussian"
    tour.draw("three_optima.png", lambda plotting: plotting.plot_projection(spokes, *pair, title=title))


#: The observation of the worked example: x - 1 is one standard deviation above z = 0, so the truncation
#: matters.
_X = 2.0


def _worked_log_joint(z: Any, x: Any) -> Any:
    """log p(x, z) for p(z) = exp(-z), p(x | z) = N(x | z, 1)."""
    return -z[0] - 0.5 * (x - z[0]) ** 2 - 0.5 * math.log(2.0 * math.pi)


def _log_phi(x: Any) -> Any:
    """log Phi(x), elementwise."""
    return np.vectorize(lambda t: math.log(0.5 * math.erfc(-t / math.sqrt(2.0))))(x)


def _pm(estimate: Estimate) -> str:
    return f"{estimate.value:.9f} ± {estimate.error:.0e}"


def _say_parts(tour: Tour, found: Fit) -> None:
    parts = decompose(found.model, found.q)
    tour.say(f"    {found.q}")
    tour.say(f"    log p(x) {_pm(parts.log_evidence)}, ELBO {_pm(parts.elbo)}, KL {_pm(parts.kl)}")


def _walk(tour: Tour, whole: Model) -> None:
    """Gradient ascent of the ELBO in μ, each step with its decomposition."""
    mu, rate = -2.0, 0.5
    tour.say(f"    steps mu <- mu + {rate} dELBO/dmu; the gradient by quadrature, and x - 1 - mu by hand:")
    heads = "mu", "gradient", "by hand", "ELBO", "+ KL", "= log p(x)"
    tour.say("    " + " ".join(f"{head:>10}" for head in heads))
    for _ in range(8):
        q = Gaussian(mu, 1.0)
        gradient = float(elbo_grad(whole, q).mean[0])
        _, bound, kl = (part.value for part in decompose(whole, q))
        numbers = mu, gradient, _X - 1.0 - mu, bound, kl, bound + kl
        tour.say("    " + " ".join(f"{number:10.5f}" for number in numbers))
        mu += rate * gradient


def _three_readings(plotting: Any, whole: Fit, cut: Fit, log: Fit) -> Any:
    """The exact posterior (grey) and the q of each reading."""
    axes = plotting.row_of_axes(3, (15.0, 5.2))
    plotting.plot_posterior(whole, axes[0], labels=("z",), title="z on the whole line: a Gaussian is exact")
    z = np.linspace(-2.5, 5.0, 1001)
    q, exact = whole.q.pdf(z[:, None]), cut.q.pdf(z[:, None])
    ax = axes[1]
    ax.fill_between(z, exact, color="0.88", linewidth=0.0)
    ax.plot(z, exact, color="0.6", linewidth=5.0, label="posterior")
    ax.plot(z, q, color="#0072b2", label="q = N(x - 1, 1): ELBO = -∞, KL = ∞")
    ax.fill_between(z[z < 0], q[z < 0], color="#d55e00", alpha=0.6, label="q where p(z) = 0")
    ax.set(xlabel="z", ylabel="density", xlim=(-2.5, 5.0), ylim=(0.0, None))
    ax.set_title("z > 0, q on the whole line: infinitely far")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)
    plotting.plot_posterior([cut, log], axes[2], labels=("z",), title="z > 0: cut off, it is exact")
    return axes[0]


def worked_example(tour: Tour) -> None:
    """p(z) = exp(-z), p(x | z) = N(x | z, 1), q(z) = N(z | mu, 1), in its three readings."""
    half = Model(_worked_log_joint, 1, data=(_X,), support="positive")
    whole = Model(_worked_log_joint, 1, data=(_X,))
    tour.say()
    tour.say(f"A worked example: p(z) = exp(-z), p(x | z) = N(x | z, 1), q(z) = N(z | mu, 1), x = {_X:g}")
    tour.say("By hand, dKL/dmu = mu + 1 - x = 0, so mu* = x - 1. Three readings of it:")
    tour.say()
    tour.say("1. z on the whole line. The posterior is N(x - 1, 1), and the hand calculation is right:")
    _walk(tour, whole)
    found = tour.timed("   fit gets there in one call", partial(fit, whole))
    _say_parts(tour, found)
    tour.say()
    tour.say("2. z > 0, as exp(-z) is a density only there, with the same q:")
    bound = elbo(half, Gaussian(_X - 1.0, 1.0))
    tour.say(textwrap.indent(textwrap.fill(f"ELBO {bound.value}: {bound.note}.", 100), "    "))
    missing = -math.expm1(float(_log_phi(_X - 1.0)))
    hand = 0.5 - _X
    truth = hand + float(_log_phi(_X - 1.0))
    tour.say("    The hand calculation takes log p(z) = -z at z < 0 too, where p(z) is 0 and q")
    tour.say(f"    has {missing:.1%} of its mass. Its {hand:g} is no lower bound: log p(x) is {truth:.6f}.")
    tour.say()
    tour.say("3. z > 0 with a q that lives there. A truncated Gaussian is exact again:")
    cut = tour.timed('   fit(..., "truncated")', partial(fit, half, "truncated"))
    _say_parts(tour, cut)
    tour.say(f"    by formula, log p(x) = 1/2 - x + log Phi(x - 1) = {truth:.9f}")
    log = tour.timed("   fit, Gaussian in log z: an approximation", partial(fit, half))
    _say_parts(tour, log)
    tour.draw("worked_example.png", lambda plotting: _three_readings(plotting, found, cut, log))


def batches(tour: Tour) -> None:
    """The worked example for many x at once, compared with its formulas."""
    size = 10_000
    random = np.random.default_rng(0)
    x = random.exponential(size=size) + random.standard_normal(size)
    tour.say()
    tour.say(f"Many fits at once: {size:,} data sets drawn from the worked example, each with its own q")
    whole = Model(_worked_log_joint, 1, data=(0.0,))
    half = Model(_worked_log_joint, 1, data=(0.0,), support="positive")
    fits: FitBatch = tour.timed("fit_batch, z on the whole line", partial(fit_batch, whole, (x,)))
    worst = float(np.abs(fits.mean[:, 0] - (x - 1.0)).max())
    tour.say(f"    {fits.converged.sum():,} converged; none is further than {worst:.0e} from mu* = x - 1")
    fits = tour.timed("fit_batch, z > 0, Gaussian in log z", partial(fit_batch, half, (x,)))
    kl = 0.5 - x + _log_phi(x - 1.0) - fits.elbo
    low, high, count = kl.min(), kl.max(), fits.converged.sum()
    tour.say(f"    {count:,} converged; KL, from log p(x) by formula, is {low:.4f} to {high:.4f},")
    tour.say(f"    in the mean {kl.mean():.4f}; the ELBO's errors are up to {fits.error.max():.0e}")


#: Effects of coaching on test scores in eight schools, and their standard errors (Rubin 1981).
_EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
_ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


def _schools_log_joint(z: Any, y: Any, sigma: Any) -> Any:
    """mu ~ N(0, 5), tau ~ half-Cauchy(5), e_j ~ N(0, 1), y_j ~ N(mu + tau e_j, sigma_j); z = mu, tau, e."""
    mu, tau = z[0], z[1]
    value = -0.5 * (mu / 5.0) ** 2 - math.log(5.0) - 0.5 * math.log(2.0 * math.pi)
    value += math.log(2.0 / (5.0 * math.pi)) - math.log1p((tau / 5.0) ** 2)
    for j in range(y.size):
        e = z[2 + j]
        residual = (y[j] - mu - tau * e) / sigma[j]
        value += -0.5 * (e * e + residual * residual) - math.log(2.0 * math.pi * sigma[j])
    return value


def _collapsed_log_joint(z: Any, y: Any, sigma: Any) -> Any:
    """The eight schools with e_j integrated out by hand: y_j ~ N(mu, sigma_j^2 + tau^2); z = mu, tau."""
    mu, tau = z[0], z[1]
    value = -0.5 * (mu / 5.0) ** 2 - math.log(5.0) - 0.5 * math.log(2.0 * math.pi)
    value += math.log(2.0 / (5.0 * math.pi)) - math.log1p((tau / 5.0) ** 2)
    for j in range(y.size):
        variance = sigma[j] ** 2 + tau**2
        value += -0.5 * ((y[j] - mu) ** 2 / variance + math.log(2.0 * math.pi * variance))
    return value


def _exact_means(collapsed: Model) -> Array:
    """E[theta_j | y], by the trapezoid rule in mu and log tau."""
    y, sigma = collapsed.data
    mu, log_tau = np.meshgrid(np.linspace(-25.0, 35.0, 121), np.linspace(-12.0, 8.0, 161), indexing="ij")
    tau = np.exp(log_tau)
    log_weights = collapsed.log_density(np.stack([mu, tau], axis=-1)) + log_tau
    weights = np.exp(log_weights - log_weights.max())[..., None]
    share = tau[..., None] ** 2 / (sigma**2 + tau[..., None] ** 2)
    means: Array = (weights * (mu[..., None] * (1.0 - share) + y * share)).sum(axis=(0, 1)) / weights.sum()
    return means


def _shrinkage(plotting: Any, mean: Array, sd: Array, middle: float) -> Any:
    """The measured effect and the posterior of each school."""
    (ax,) = plotting.row_of_axes(1, (7.0, 5.6))
    school = np.arange(len(_EFFECTS))
    ax.errorbar(school - 0.1, _EFFECTS, _ERRORS, fmt="o", color="0.55", capsize=3, label="measured")
    label = "posterior"
    ax.errorbar(school + 0.1, mean, sd, fmt="s", color="#0072b2", capsize=3, linewidth=2.2, label=label)
    ax.axhline(middle, color="#0072b2", linestyle=":", label="posterior mean of mu")
    ax.set_xticks(school, list("ABCDEFGH"))
    ax.set(xlabel="school", ylabel="effect of coaching, points")
    ax.set_title("Eight schools: each borrows strength from the others")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    return ax


def eight_schools(tour: Tour) -> None:
    """A hierarchical model in ten dimensions."""
    y, sigma = np.array(_EFFECTS), np.array(_ERRORS)
    model = Model(_schools_log_joint, 10, data=(y, sigma), support=["real", "positive"] + ["real"] * 8)
    tour.say()
    tour.say("A hierarchical posterior: coaching in eight schools (Rubin 1981), 10 latent dimensions")
    tour.say(
        "theta_j = mu + tau e_j; mu ~ N(0, 5), tau ~ half-Cauchy(5), e_j ~ N(0, 1); tau through its log."
    )
    tour.say()
    collapsed = Model(_collapsed_log_joint, 2, data=(y, sigma), support=["real", "positive"])
    evidence = tour.timed("log p(y), mu and tau by quadrature, e by hand", partial(log_evidence, collapsed))
    tour.say(f"    {_pm(evidence)}")
    for family in ("diag", "full"):
        found = tour.timed(f'fit(..., "{family}"), without that help', partial(fit, model, family))
        bound = found.elbo
        kl = evidence.value - bound.value
        tour.say(f"    ELBO {bound.value:.3f} ± {bound.error:.3f}, {found.status}; so KL = {kl:.3f}")
        tour.say(f"    {found.diagnose().verdict}")
    z = found.sample(100_000, rng=0)
    theta = z[:, :1] + z[:, 1:2] * z[:, 2:]
    mean, sd = theta.mean(axis=0), theta.std(axis=0)
    tour.say("    school  measured   theta: q(full), means to ± 0.02   exact mean, by quadrature")
    exact = _exact_means(collapsed)
    for j, name in enumerate("ABCDEFGH"):
        measured, found_mean = f"{y[j]:3.0f} ± {sigma[j]:2.0f}", f"{mean[j]:5.2f} ± {sd[j]:.2f}"
        tour.say(f"    {name}       {measured}        {found_mean} {exact[j]:24.2f}")
    tour.draw("eight_schools.png", lambda plotting: _shrinkage(plotting, mean, sd, float(z[:, 0].mean())))


def _compile_foragers() -> None:
    from .examples import agents

    agents.simulate(steps=1, agents=agents.BLOCKS)


def foragers(tour: Tour) -> None:
    """Ten thousand agents that update their beliefs inside a compiled function of the user's."""
    from .examples import agents

    tour.say()
    tour.say(
        f"Inside your own simulation: {agents.AGENTS:,} foragers, {agents.STEPS} steps, an ELBO fit in each"
    )
    tour.say("    (fastvi/examples/agents.py; compiling it takes some seconds the first time)")
    _compile_foragers()
    start = time.perf_counter()
    patch, mean, variance, eaten, failed = agents.simulate(progress=tour.progress("foragers"))
    seconds = time.perf_counter() - start
    fits = agents.STEPS * agents.AGENTS
    tour.say(
        f"    {fits:,} fits in {_duration(seconds)}, {_duration(seconds / fits)} each; {failed.sum()} failed"
    )
    log_rates, _ = agents.world(0)
    off = np.abs(log_rates[-1, patch] - mean) / np.sqrt(variance)
    tour.say(
        f"    the true log rate lies within 1 deviation of the belief for {np.mean(off < 1):.1%} of them,"
    )
    tour.say(f"    within 2 for {np.mean(off < 2):.1%}; a forager ate {eaten.mean():.0f} in the mean")


_ELLIPSES = 4  #: steps from one ellipse to the next


def _draw_errors(ax: Any, true: Array, found: dict[str, Any], shown: dict[str, tuple[str, str]]) -> None:
    """The error over all tracks by step of some filters, each with its colour and label."""
    for name, (colour, label) in shown.items():
        error = np.sqrt(((found[name][0] - true) ** 2).sum(axis=2).mean(axis=0))
        ax.plot(error, color=colour, label=label)
    ax.set(xlabel="step", ylabel="error (root mean square)", ylim=(0.0, None))
    ax.set_title(f"{len(true)} tracks")
    ax.legend(frameon=False)


def _tracks(plotting: Any, true: Array, measured: Array, found: dict[str, Any], n: int) -> Any:
    """One track with the beliefs of both filters, and the error over all tracks by step."""
    axes = plotting.row_of_axes(3, (16.0, 5.2))
    words = {"M": "M-projection: covers both modes", "I": "I-projection: takes one of them"}
    shown = {"M": ("#0072b2", "M-projection"), "I": ("#d55e00", "I-projection")}
    for ax, (name, (colour, _)) in zip(axes, shown.items(), strict=False):
        means, covs = found[name]
        ax.axvline(0.0, color="0.3", linewidth=1.0)
        ax.plot(*measured[n].T, ".", color="0.65", markersize=5.0, label="measured, or its echo")
        ax.plot(*true[n].T, color="black", linewidth=1.2, label="true")
        for t in range(0, len(true[n]), _ELLIPSES):
            plotting.draw_ellipses(ax, Gaussian(means[n, t], covs[n, t]), colour, "-", sizes=(1,))
        ax.plot(*means[n].T, color=colour, linewidth=0.8, label="belief, 1 deviation")
        ax.set(xlabel="x, from the wall", ylabel="y", title=words[name])
        ax.set_aspect("equal", adjustable="datalim")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, ncols=3)
    _draw_errors(axes[2], true, found, shown)
    return axes[0]


def mirror(tour: Tour) -> None:
    """A Gaussian-sum filter that projects its mixture onto a Gaussian in either direction of KL."""
    from .examples import tracking

    tour.say()
    tour.say("A filter with two modes: a target beside a mirroring wall (fastvi/examples/tracking.py)")
    tracking.simulate(tracks=1, steps=1)
    start = time.perf_counter()
    true, found = tracking.simulate(progress=tour.progress("tracks"))
    seconds = time.perf_counter() - start
    steps = 2 * true.shape[0] * true.shape[1]
    tour.say(f"    {steps:,} filter steps in {_duration(seconds)}, {_duration(seconds / steps)} each")
    offs = {}
    for name, (means, covs) in found.items():
        off = means - true
        square = np.einsum("nti,ntij,ntj->nt", off, np.linalg.inv(covs), off)
        offs[name] = (off**2).sum(axis=2)
        tour.say(
            f"    collapsed by {name}-projection: error {math.sqrt(offs[name].mean()):.3f}, which is "
            f"{math.sqrt(square.mean() / 2.0):.2f} times what the beliefs say"
        )
    tour.say("    The M-projection keeps the other mode in its covariance; the I-projection bets on one.")
    worst = int(np.argmax((offs["I"] - offs["M"]).mean(axis=1)))
    _, measured = tracking.world(0)
    tour.draw("tracking.png", lambda plotting: _tracks(plotting, true, measured, found, worst))


def _among_clutter(plotting: Any, true: Array, detections: Array, found: dict[str, Any], n: int) -> Any:
    """One track among the detections with both filters, and the error over all tracks by step."""
    axes = plotting.row_of_axes(2, (11.0, 5.2))
    axes[0].plot(*detections[n].reshape(-1, 2).T, ".", color="0.75", markersize=4.0, label="detections")
    axes[0].plot(*true[n].T, color="black", linewidth=1.2, label="true")
    shown = {"reduced": ("#0072b2", "reduced"), "pruned": ("#d55e00", "pruned")}
    for name, (colour, label) in shown.items():
        axes[0].plot(*found[name][0][n].T, color=colour, linewidth=0.9, label=f"mean, {label}")
    axes[0].set(xlabel="x", ylabel="y", title="a target among false detections")
    axes[0].set_aspect("equal", adjustable="datalim")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, ncols=4)
    _draw_errors(axes[1], true, found, shown)
    return axes[0]


def clutter(tour: Tour) -> None:
    """A Gaussian-sum filter that reduces its mixture by KL, beside one that keeps the largest weights."""
    from .examples import clutter as program

    tour.say()
    tour.say("A Gaussian-sum filter: a target among false detections (fastvi/examples/clutter.py)")
    program.simulate(tracks=1, steps=2)
    start = time.perf_counter()
    true, found = program.simulate(progress=tour.progress("tracks"))
    seconds = time.perf_counter() - start
    steps = 2 * true.shape[0] * true.shape[1]
    size = program.KEPT * 2 * (program.SEEN + 1)
    tour.say(f"    {steps:,} filter steps in {_duration(seconds)}; each leads from {program.KEPT} components")
    tour.say(f"    to {size}, of which it makes {program.KEPT} again")
    errors = {}
    for name, (means, surprise) in found.items():
        errors[name] = ((means - true) ** 2).sum(axis=2)
        tour.say(
            f"    {name}: error {math.sqrt(errors[name].mean()):.3f}, "
            f"mean -log density of the truth {surprise.mean():.3f}"
        )
    tour.say("    What is reduced by KL keeps the mass that pruning forgets: the target is not lost.")
    worst = int(np.argmax((errors["pruned"] - errors["reduced"]).mean(axis=1)))
    _, detections = program.world(0)
    tour.draw("clutter.png", lambda plotting: _among_clutter(plotting, true, detections, found, worst))


PARTS: tuple[Callable[[Tour], None], ...] = (
    divergences,
    projections,
    worked_example,
    batches,
    eight_schools,
    foragers,
    mirror,
    clutter,
)


#: The kernels that the parts call, and those that these call by address, by module: `fastvi tour` has them
#: compiled on all cores.
_CALLED = {
    "compiled.operations": "i_projection m_projection reduce_mixture",
    "densities.grids": "trapezoid",
    "densities.mixtures": "mixture_logpdf mixture_logpdf_many mixture_moments",
    "discrete.all_pairs": "_cross_entropy_rows _js_rows _kl_rows",
    "discrete.divergences": "js kl",
    "discrete.entropies": "cross_entropy",
    "em.e_step": "workspace",
    "em.iterations": "fit",
    "em.seeding": "cluster mixture_of_clusters",
    "em.standardization": "standardize standardize_mixture unstandardize_mixture write_frame",
    "families.operations": "start",
    "inference.entry_points": (
        "averages conditional curvature densities densities_or_zero doubt doubt_bounds doubt_truncated "
        "draws_workspace elbo_quadrature elbo_truncated evidence evidence_workspace find_modes fit_draws "
        "fit_quadrature fit_truncated fit_workspace laplace laplace_workspace log_evidence lost_at_bounds "
        "lost_by_evidence mass_of_gaps panel_workspace to_latent to_support truncated_moments "
        "truncated_workspace"
    ),
    "projections.mixture_projections": "i_projections m_projection",
    "projections.optimum": "workspace",
    "projections.reductions": "runnalls workspace",
    "projections.refinements": "refine workspace",
    "quadrature.mixture_kl": "mixture_kl workspace",
}
KERNELS = [f"{module}.{name}" for module, names in _CALLED.items() for name in names.split()]

#: What the parts compile of their own and keep, with the seconds that it takes.
PROGRAMS = {_compile_foragers: 25.0}


def run(folder: Path) -> None:
    """Go through all parts, writing to `folder`."""
    tour = Tour(folder)
    for part in PARTS:
        tour.sections.append([])
        part(tour)
    tour.finish()
