"""Gaussian mixtures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import kernels
from ..common.immutable import frozen, restore, shown
from ..common.threads import interruptible, patiently
from ..common.validation import (
    cholesky_factor,
    finite_array,
    float_array,
    generator,
    integer,
    mixture_weights,
    symmetry_tolerance,
)
from ..common.values import Array, Triple, as_points, hashable, in_shape, tidy
from . import algebra
from .gaussian import Gaussian, amplification
from .integrals import ENTROPY_RTOL, mixture_entropy

#: Components, times ten for each dimension, from which a call may take a tenth of a second.
_MANY = 1000

#: Multiplications from which log densities take as long.
_MULTIPLICATIONS = 1e8


def is_long(value: Any) -> bool:
    """Whether an argument is a mixture with which a call may take so long that it must be interruptible."""
    if not isinstance(value, GaussianMixture):
        return False
    count, dim = value._means.shape
    return bool(count * 10.0**dim >= _MANY)


class GaussianMixture(algebra.Gaussians):
    r"""A mixture of Gaussians.

    .. math:: p(z) = \sum_k w_k \, N(z \mid \mu_k, \Sigma_k)

    Parameters
    ----------
    weights : array_like, shape (K,)
        They are >= 0 and sum to 1 within 1e-6; they are divided by their sum.
    means : array_like, shape (K, D)
        Shape (K,) for D = 1.
    covs : array_like, shape (K, D, D)
        Each symmetric and positive definite. Shape (K,), variances, for D = 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, entries that are not finite, weights that are negative or do not sum to 1, a
        covariance that is not symmetric or not positive definite (which one is named).

    References
    ----------
    C. M. Bishop, Pattern Recognition and Machine Learning (2006), eq. 9.7.

    Examples
    --------
    >>> import fastvi as fv
    >>> p = fv.GaussianMixture([0.3, 0.7], [[-3, 0], [3, 0]], [[[1, 0], [0, 1]]] * 2)
    >>> p.mean.round(12), p.cov.round(12)
    (array([1.2, 0. ]), array([[8.56, 0.  ],
           [0.  , 1.  ]]))
    >>> round(p.entropy(), 9)
    3.44523821
    """

    _is_mixture = True

    def __init__(self, weights: ArrayLike, means: ArrayLike, covs: ArrayLike) -> None:
        w = mixture_weights(weights)
        locations, spreads = float_array("means", means), float_array("covs", covs)
        if locations.ndim == 1:
            locations = locations[:, None]
        if spreads.ndim == 1:
            spreads = spreads[:, None, None]
        mu = finite_array("means", locations, 2, "(K, D)")
        sigma = finite_array("covs", spreads, 3, "(K, D, D)")
        count, dim = mu.shape
        if w.size != count or sigma.shape != (count, dim, dim):
            raise ValueError(
                "weights, means and covs must have shapes (K,), (K, D) and (K, D, D), "
                f"not {w.shape}, {mu.shape} and {sigma.shape}"
            )
        tolerance = symmetry_tolerance(covs)
        factors = np.stack([cholesky_factor(f"covs[{k}]", sigma[k], tolerance) for k in range(count)])
        with np.errstate(divide="ignore"):
            logs = np.log(w)
        self._set(w, mu, 0.5 * (sigma + sigma.swapaxes(1, 2)), factors, logs)

    def _set(self, weights: Array, means: Array, covs: Array, factors: Array, logs: Array) -> None:
        self.__dict__.update(
            _weights=frozen(weights), _means=means, _covs=frozen(covs), _factors=factors, _log_weights=logs
        )

    @classmethod
    def _from_factors(cls, logs: Array, means: Array, factors: Array) -> GaussianMixture:
        """A mixture that compiled code has made; nothing is checked."""
        self = cls.__new__(cls)
        self._set(np.exp(logs), means, factors @ factors.swapaxes(1, 2), factors, logs)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        fields = self._weights, self._means, self._covs, self._factors, self._log_weights
        return restore, (type(self), *(np.array(field) for field in fields))

    @cached_property
    def _amplification(self) -> float:
        return amplification(self._factors)

    _weights: Array
    _means: Array
    _covs: Array
    _factors: Array
    _log_weights: Array

    @classmethod
    def from_sklearn(cls, fitted: Any) -> GaussianMixture:
        """The density of a fitted `sklearn.mixture.GaussianMixture`, of any covariance type.

        Parameters
        ----------
        fitted : sklearn.mixture.GaussianMixture
            Or an object with its attributes `weights_`, `means_`, `covariances_` and `covariance_type`.

        Returns
        -------
        GaussianMixture

        Raises
        ------
        TypeError
            An object without these attributes, such as one that is not fitted.
        ValueError
            An unknown covariance type.

        Examples
        --------
        >>> import fastvi as fv
        >>> from types import SimpleNamespace
        >>> fitted = SimpleNamespace(weights_=[1.0], means_=[[0.0, 0.0]], covariances_=[2.0],
        ...                          covariance_type="spherical")
        >>> fv.GaussianMixture.from_sklearn(fitted)
        GaussianMixture(weights=[1], means=[[0, 0]], covs=[[[2, 0], [0, 2]]])
        """
        missing = [name for name in ("weights_", "means_", "covariances_") if not hasattr(fitted, name)]
        if missing:
            raise TypeError(
                f"from_sklearn takes a fitted sklearn GaussianMixture; {fitted!r} has no {missing[0]}"
            )
        means, covs = np.asarray(fitted.means_), np.asarray(fitted.covariances_)
        count, dim = means.shape
        kind = getattr(fitted, "covariance_type", "full")
        if kind == "spherical":
            covs = covs[:, None, None] * np.eye(dim)
        elif kind == "diag":
            covs = covs[:, :, None] * np.eye(dim)
        elif kind == "tied":
            covs = np.broadcast_to(covs, (count, dim, dim))
        elif kind != "full":
            raise ValueError(f"covariance_type must be full, tied, diag or spherical, not {kind!r}")
        return cls(fitted.weights_, means, covs)

    def to_sklearn(self, estimator: Any) -> Any:
        """Make an estimator a fitted one with this density, and return it.

        Parameters
        ----------
        estimator : sklearn.mixture.GaussianMixture
            Its attributes `weights_`, `means_`, `covariances_`, `precisions_`, `precisions_cholesky_`,
            `covariance_type` ("full"), `n_components` and `n_features_in_` are set.

        Examples
        --------
        >>> import fastvi as fv
        >>> from types import SimpleNamespace
        >>> fitted = fv.GaussianMixture([1], [[0, 0]], [[[4, 0], [0, 1]]]).to_sklearn(SimpleNamespace())
        >>> fitted.precisions_cholesky_
        array([[[0.5, 0. ],
                [0. , 1. ]]])
        """
        inverses = np.linalg.inv(self._factors).swapaxes(1, 2)
        for name, value in {
            "n_components": self.weights.size,
            "n_features_in_": self.dim,
            "covariance_type": "full",
            "weights_": self.weights.copy(),
            "means_": self.means.copy(),
            "covariances_": self.covs.copy(),
            "precisions_cholesky_": inverses,
            "precisions_": inverses @ inverses.swapaxes(1, 2),
            "converged_": True,
        }.items():
            setattr(estimator, name, value)
        return estimator

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, as for JSON: ``GaussianMixture(**p.to_dict())`` is p, to rounding of its weights."""
        return {"weights": self.weights.tolist(), "means": self.means.tolist(), "covs": self.covs.tolist()}

    def marginal(self, axes: Any) -> GaussianMixture:
        """The distribution of some coordinates, in the order of `axes`: an integer or several."""
        return GaussianMixture(self.weights, *algebra.marginal(self._parts, axes))

    def conditional(self, given: Mapping[int, float]) -> GaussianMixture:
        """The distribution of the other coordinates, given the values of some: axis to value.

        Each component's weight is multiplied by its density at these values.

        Examples
        --------
        >>> import fastvi as fv
        >>> p = fv.GaussianMixture([0.5, 0.5], [[-1, 0], [1, 5]], [[[1, 0], [0, 1]]] * 2)
        >>> p.conditional({0: 0.5}).weights.round(6)
        array([0.268941, 0.731059])
        """
        logs, parts = algebra.conditional(self._parts, given)
        weights, _ = algebra.normalised(self._log_weights + logs, "given")
        return GaussianMixture(weights, *parts)

    def affine(self, matrix: ArrayLike, shift: ArrayLike | None = None) -> GaussianMixture:
        """The distribution of ``matrix @ z + shift``; `matrix`, shape (m, D), has independent rows."""
        return GaussianMixture(self.weights, *algebra.affine(self._parts, matrix, shift))

    def product(self, other: algebra.Gaussians) -> tuple[GaussianMixture, float]:
        """The product of two densities: (the normalised product, log of the integral of the product).

        It has a component for each pair of components.

        Examples
        --------
        >>> import fastvi as fv
        >>> p = fv.GaussianMixture([0.5, 0.5], [-1, 1], [1, 1])
        >>> posterior, log_evidence = p.product(fv.Gaussian(1, 1))
        >>> posterior.weights.round(6), round(log_evidence, 6)
        (array([0.268941, 0.731059]), -1.645398)
        """
        return algebra.multiply(self, other)

    @property
    def _parts(self) -> algebra.Parts:
        return self._means, self._covs

    @property
    def dim(self) -> int:
        """The number of dimensions D."""
        return int(self._means.shape[1])

    @property
    def weights(self) -> Array:
        """The weights, shape (K,), read-only."""
        return self._weights

    @property
    def means(self) -> Array:
        """The components' means, shape (K, D), read-only."""
        return shown(self._means)

    @property
    def covs(self) -> Array:
        """The components' covariances, shape (K, D, D), read-only."""
        return self._covs

    @property
    def components(self) -> tuple[Gaussian, ...]:
        """The components, without their weights."""
        return tuple(
            restore(Gaussian, np.array(m), np.array(f), np.array(c))
            for m, f, c in zip(self._means, self._factors, self._covs, strict=True)
        )

    @property
    def mean(self) -> Array:
        """The mean of the mixture, shape (D,), read-only."""
        return self._moments[0]

    @property
    def cov(self) -> Array:
        """The covariance of the mixture, shape (D, D), read-only."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        mean, cov = np.empty(self.dim), np.empty((self.dim, self.dim))
        kernels.densities.mixtures.mixture_moments(*self._triple(), mean, cov)
        return frozen(mean), frozen(cov)

    def logpdf(self, z: ArrayLike) -> Any:
        """Logarithm of the density at `z`, shape (..., D): a float for one point, else an array (...)."""
        points, shape = as_points(z, self.dim)
        out = np.empty(len(points))
        run = kernels.densities.mixtures.mixture_logpdf_many
        task = partial(run, points, *self._triple(), np.empty(self.dim), out)
        if points.size * self._means.size > _MULTIPLICATIONS:
            patiently(task)
        else:
            task()
        return in_shape(out, shape)

    @interruptible(is_long)
    def entropy(self) -> float:
        """The differential entropy in nats, by quadrature; `entropy_estimate` has its error.

        In more than three dimensions by quasi-Monte Carlo, accurate to three or four digits.
        """
        return mixture_entropy(self, ENTROPY_RTOL).value

    def sample(self, n: int, rng: Any = None) -> Array:
        """`n` draws, shape (n, D), from `rng`: a Generator, which is advanced, an integer, or None."""
        source, n = generator("rng", rng), integer("n", n, 0)
        which = source.choice(self._weights.size, size=n, p=self._weights)
        noise = source.standard_normal((n, self.dim))
        draws: Array = self._means[which] + np.einsum("nij,nj->ni", self._factors[which], noise)
        return draws

    def _triple(self) -> Triple:
        return self._log_weights, self._means, self._factors

    @staticmethod
    def _of_parts(weights: Array, means: Array, covs: Array) -> GaussianMixture:
        return GaussianMixture(weights, means, covs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GaussianMixture):
            return NotImplemented
        return all(
            np.array_equal(a, b)
            for a, b in zip(
                (self.weights, self.means, self.covs), (other.weights, other.means, other.covs), strict=True
            )
        )

    def __hash__(self) -> int:
        return hash(tuple(hashable(a) for a in (self.weights, self.means, self.covs)))

    def __repr__(self) -> str:
        parts = tidy(self.weights), tidy(self.means), tidy(self.covs)
        return "GaussianMixture(weights={}, means={}, covs={})".format(*parts)
