"""The interface of compensations, and their registration. Pure tensors in float64.

A compensation changes ``fc2`` only; rows of ``fc1`` are deleted and not changed.
"""

from abc import abstractmethod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from hf_vbp.adapters.site_weights import SiteWeights
from hf_vbp.config.registry import COMPENSATIONS, Method
from hf_vbp.config.users_code import named_in_errors
from hf_vbp.errors import ConfigurationError, NonFiniteError
from hf_vbp.statistics.joint import JointMoments
from hf_vbp.statistics.site_statistics import SiteStatistics


class Compensated(NamedTuple):
    """The new weights of ``fc2``.

    Attributes:
        weight: ``(out, kept)`` float64.
        bias: ``(out,)`` float64; None where the site has no bias.
    """

    weight: Tensor
    bias: Tensor | None


class CompensationWarning(UserWarning):
    """A site was compensated in another way than requested; the message names the site and the way."""


class Compensation(Method):
    """Adjusts the kept weights of ``fc2`` so that the output of the site changes less.

    A compensation is a frozen dataclass: its fields are its options, ``name`` is its name in configurations and on the
    command line, and :attr:`requires` names the statistics that must be gathered for it.

    Example:
        >>> from dataclasses import dataclass
        >>> from hf_vbp.compensation.base import Compensated, Compensation, register_compensation
        >>> @register_compensation
        ... @dataclass(frozen=True)
        ... class Rescale(Compensation):
        ...     name = "rescale"
        ...
        ...     def fit(self, weights, kept, site):
        ...         scale = weights.hidden / max(len(kept), 1)
        ...         return Compensated(weights.fc2_weight[:, kept] * scale, weights.fc2_bias)
    """

    @abstractmethod
    def fit(self, weights: SiteWeights, kept: Tensor, site: SiteStatistics) -> Compensated:
        """Return the new weights of ``fc2``.

        Args:
            weights: The dense weights of the site.
            kept: ``(kept,)`` int64, indices of the kept neurons, in the order of the result's columns.
            site: The statistics of the site; they hold everything that :attr:`requires` names.
        """

    def refit(self, fitted: Compensated, joint: JointMoments) -> Compensated:
        """Return the weights of ``fc2`` for the hidden neurons that the smaller MLP really has.

        Called where a normalization over the neurons (GRN, LayerNorm) makes them differ from those of the dense MLP,
        after a second pass over the images. By default nothing changes.

        Args:
            fitted: What :meth:`fit` returned.
            joint: The moments of these hidden neurons and of the dense outputs of ``fc2``, without its bias's
                BatchNorm.
        """
        return fitted


CompensationT = TypeVar("CompensationT", bound=type[Compensation])


def register_compensation(cls: CompensationT) -> CompensationT:
    """Make a compensation known under its ``name``; a class decorator.

    It is found in the same ways as a criterion, see :func:`hf_vbp.register_criterion`; the group of the package entry
    points is ``hf_vbp.compensation``.

    Raises:
        ConfigurationError: The class is not a dataclass that derives from :class:`Compensation`, does not define
            :meth:`Compensation.fit`, has no name, or the name is taken.
    """
    COMPENSATIONS.register(cls, Compensation)
    return cls


def compensate(
    compensation: Compensation | str, weights: SiteWeights, kept: Tensor, site: SiteStatistics, **options: Any
) -> Compensated:
    """Return the weights of ``fc2`` for a site that keeps only the neurons ``kept``.

    Args:
        compensation: A compensation, or the name of one.
        weights: The dense weights of the site.
        kept: ``(kept,)`` int64, distinct indices, in the order of the result's columns.
        site: The statistics of the site.
        **options: Options of a compensation that is given by name.

    Returns:
        ``weight`` ``(out, kept)`` and ``bias`` ``(out,)``, float64. A site without bias gets None
        from ``linear`` and ``none``.

    Raises:
        ConfigurationError: The name or an option is unknown, the indices are not distinct neurons of the site, or the
            compensation returned no weight and bias of these shapes, or raised an error.
        NonFiniteError: The compensation returned NaN or infinity.
        StatisticsError: The statistics lack something that the compensation needs.
    """
    chosen: Compensation = (
        COMPENSATIONS.create(compensation, options) if isinstance(compensation, str) else compensation
    )
    kept = kept.to(device="cpu", dtype=torch.int64)
    if kept.numel() and (kept.min() < 0 or kept.max() >= weights.hidden):
        raise ConfigurationError(
            f"site {site.name!r} has the neurons 0 to {weights.hidden - 1}, but the neurons to keep range from "
            f"{kept.min().item()} to {kept.max().item()}"
        )
    if torch.bincount(kept, minlength=1).max() > 1:
        raise ConfigurationError(f"the neurons to keep of site {site.name!r} are not distinct; name each once")
    with named_in_errors(f"fit of compensation {chosen.name!r} for site {site.name!r}", type(chosen)):
        fitted = chosen.fit(weights, kept, site)
    return checked(chosen, fitted, site.name, weights, len(kept))


def checked(compensation: Compensation, fitted: Any, site: str, weights: SiteWeights, kept: int) -> Compensated:
    """Return what a compensation computed in float64, if it fits the site.

    Args:
        compensation: The compensation.
        fitted: The value that its ``fit`` or ``refit`` returned.
        site: Name of the site.
        weights: The weights of the site before; a bias is expected where they have one, or where the compensation
            requires one.
        kept: Number of kept neurons.

    Raises:
        ConfigurationError: The value is no weight and bias, or one of them has another shape.
        NonFiniteError: A weight is NaN or infinite.
    """
    source = f"compensation {compensation.name!r}"
    if not isinstance(fitted, tuple) or len(fitted) != 2:
        given = f"a tuple of {len(fitted)}" if isinstance(fitted, tuple) else f"a {type(fitted).__name__}"
        raise ConfigurationError(f"{source} returned {given} for site {site!r}, expected Compensated(weight, bias)")
    out = weights.fc2_weight.shape[0]
    weight = _checked(source, "weight", fitted[0], site, (out, kept))
    if fitted[1] is None and weights.fc2_bias is not None:
        raise ConfigurationError(
            f"{source} returned no bias for site {site!r}, expected a tensor of shape ({out},); return "
            "weights.fc2_bias to keep it"
        )
    if fitted[1] is not None and weights.fc2_bias is None and not compensation.requires.bias:
        raise ConfigurationError(
            f"{source} returned a bias for site {site!r}, which has none, expected None; to refuse such sites, "
            "return Requirements(bias=True) from the property requires"
        )
    return Compensated(weight, None if fitted[1] is None else _checked(source, "bias", fitted[1], site, (out,)))


def _checked(source: str, what: str, value: Any, site: str, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
        given = f"of shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigurationError(
            f"{source} returned a {what} {given} for site {site!r}, expected a float64 tensor of shape {shape}"
        )
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise NonFiniteError(
            f"{source} returned a {what} with {bad} values that are NaN or infinite for site {site!r}; correct the "
            "compensation, or look for such values in the weights and in the calibration images"
        )
    return value.detach().to(device="cpu", dtype=torch.float64)


def shifted(bias: Tensor | None, shift: Tensor) -> Tensor:
    """Return ``bias + shift``; a missing bias counts as zero."""
    return shift if bias is None else bias + shift
