"""The result of a projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..common.immutable import Immutable, frozen
from ..common.statuses import PROJECTION_WORDS
from ..distributions.integrals import Estimate
from ..distributions.mixture import GaussianMixture
from ..kernels.statuses import CONVERGED


class Projection(Immutable):
    """The closest member of a family, its divergence, and the other local optima.

    Attributes
    ----------
    q : Gaussian, GaussianMixture, or tuple of ndarray
        The projection; for ``family="product"`` the probabilities along each axis.
    kl : float
        The divergence in nats: KL(p ‖ q) of an M-projection, KL(q ‖ p) of an I-projection.
    error : float
        A bound of its absolute error (in more than three dimensions, its standard error).
    gradient_norm : float
        Length of the gradient at q, in the metric of Fisher's information; 0 for closed forms.
    optima : tuple of Projection
        Every local optimum that was found, best first. The first is this one.
    estimate : Estimate
        The divergence with its error.
    converged : bool
        Whether q and kl have the accuracy that was asked for.
    status : str
        How the projection ended, in words.
    evaluations : int
        Nodes of the quadrature, in the plane or on a contour; for a mixture those of all optima together.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [-3, 3], [1, 1])
    >>> fv.m_projection(p)
    Projection(q=Gaussian(mean=[1.2], cov=[[8.56]]), kl=0.466189, converged)
    """

    __slots__ = ("_divergence", "_others", "_status", "evaluations", "gradient_norm", "q")

    q: Any
    gradient_norm: float
    evaluations: int
    _divergence: Any
    _status: int
    _others: tuple[Projection, ...]

    def __init__(
        self,
        q: Any,
        divergence: Estimate | tuple[float, float, int] | Callable[[], Estimate],
        gradient_norm: float = 0.0,
        status: int = CONVERGED,
        evaluations: int = 0,
        others: Sequence[Projection] = (),
    ) -> None:
        fill = object.__setattr__
        fill(self, "q", tuple(map(frozen, q)) if isinstance(q, tuple) else q)
        fill(self, "_divergence", divergence)
        fill(self, "gradient_norm", gradient_norm)
        fill(self, "_status", status)
        fill(self, "evaluations", evaluations)
        fill(self, "_others", tuple(others))

    def _with(self, others: Sequence[Projection]) -> Projection:
        """The same projection, as the best of several optima."""
        return Projection(
            self.q, self._divergence, self.gradient_norm, self._status, self.evaluations, others
        )

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.q, self.estimate, self.gradient_norm, self._status, self.evaluations, self._others
        return Projection, state

    @property
    def converged(self) -> bool:
        """Whether q and kl have the accuracy that was asked for."""
        return bool(self._status == CONVERGED)

    @property
    def status(self) -> str:
        """How the projection ended, in words."""
        return PROJECTION_WORDS[self._status]

    @property
    def estimate(self) -> Estimate:
        """The divergence with its error; of an M-projection it is computed at the first access."""
        given = self._divergence
        if not isinstance(given, Estimate):
            estimate = Estimate(*given) if isinstance(given, tuple) else given()
            object.__setattr__(self, "_divergence", estimate)
        return self._divergence  # type: ignore[no-any-return]

    @property
    def kl(self) -> float:
        """The divergence in nats."""
        given = self._divergence
        return given[0] if isinstance(given, tuple) else self.estimate.value

    @property
    def error(self) -> float:
        """A bound of the divergence's absolute error."""
        return self.estimate.error

    @property
    def optima(self) -> tuple[Projection, ...]:
        """Every local optimum that was found, best first."""
        return (self, *self._others)

    def __repr__(self) -> str:
        more = f", {len(self._others)} more optima" if self._others else ""
        name: Any = self.q
        if isinstance(name, tuple):
            name = f"{len(name)} marginals"
        elif isinstance(name, GaussianMixture):
            name = f"mixture of {name.weights.size}"
        return f"Projection(q={name}, kl={self.kl:.6g}, {self.status}{more})"
