"""One model, validated once."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.adapters.identity import model_identity, sites_fingerprint
from hf_vbp.adapters.outputs import why_not_single_label
from hf_vbp.adapters.prunable import check_finite_weights, check_prunable
from hf_vbp.adapters.registry import find_sites, sites_of
from hf_vbp.adapters.site_weights import WeightsOfSites
from hf_vbp.adapters.structure import check_structure
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError
from hf_vbp.inputs.example import example_batch
from hf_vbp.modeling.config_record import locate


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model whose MLP sites were found and verified, with its fingerprint and float64 weights.

    Valid as long as the model is not changed; :func:`hf_vbp.prune` makes one and passes it to every step.

    Attributes:
        model: The dense model; it is not changed.
        sites: Its MLP sites, in block order.
        not_single_label: Why its output is not the logits of a single-label classifier; None where it is.
        output: Its output of one forward pass; None where it has no weights.
        inputs: The batch of this forward pass.
        latencies: Measurements that a later step takes over, by widths and conditions.
        costs: Closed forms of the cost that a later step takes over.
    """

    model: Any
    sites: tuple[MLPSite, ...]
    not_single_label: str | None = None
    output: Any = None
    inputs: Mapping[str, Any] | None = None
    latencies: dict[Hashable, dict[str, Any]] = field(default_factory=dict, repr=False)
    costs: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the site weights."""
        return sites_fingerprint(self.sites)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Id, revision, type, class and dtype of the model."""
        return model_identity(self.model)

    @cached_property
    def weights(self) -> WeightsOfSites:
        """The float64 weights of all sites."""
        return WeightsOfSites(self.sites)

    @property
    def widths(self) -> list[int]:
        """The dense width of each site, in block order."""
        return [site.intermediate_size for site in self.sites]

    def check_requirements(self, method: str, requires: Requirements) -> None:
        """Refuse a method that this model does not support.

        Args:
            method: Name of the method in the message, for instance ``"compensation 'mean'"``.
            requires: The requirements of the method.

        Raises:
            ConfigurationError: The method needs a bias that ``fc2`` of a site lacks. None is added, since the stock
                class of the model would not build it on reload. Or it needs the loss of a single-label classifier,
                which the model is not.
        """
        if requires.saliency and self.not_single_label:
            raise ConfigurationError(
                f"{method} needs the loss of a single-label classifier, and {type(self.model).__name__} has none: "
                f"{self.not_single_label}. Use another criterion."
            )
        if requires.bias:
            for site in self.sites:
                if not site.has_bias:
                    raise ConfigurationError(
                        f"{site.name}: fc2 has no bias, so {method} has nowhere to fold the mean of the removed "
                        'neurons. Use compensation="linear", which needs no bias, or "none".'
                    )


def prepare(model: nn.Module | PreparedModel, batch: Mapping[str, Any] | None = None) -> PreparedModel:
    """Find and verify the MLP sites of a model. A prepared model is returned unchanged.

    Args:
        model: A whole, plain transformers model.
        batch: A batch that the processor of the model made, for the forward passes that verify the sites; by default
            one made from the configs.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter.
        NonFiniteError: The weights hold NaN or infinity.
    """
    if isinstance(model, PreparedModel):
        return model
    sites: Sequence[MLPSite] = find_sites(model)
    check_finite_weights(tuple(sites))
    inputs = example_batch(model) if batch is None else batch
    return _verified(model, sites, check_structure(model, sites, inputs), inputs)


def prepare_structure(model: nn.Module) -> PreparedModel:
    """Find the MLP sites of a model on the meta device, for steps that read no weights.

    Args:
        model: A whole, plain transformers model without weights.

    Raises:
        UnsupportedModelError: The model has no MLP sites.
    """
    check_prunable(model, without_weights=True)
    return _verified(model, sites_of(model))


def _verified(
    model: nn.Module, sites: Sequence[MLPSite], output: Any = None, inputs: Mapping[str, Any] | None = None
) -> PreparedModel:
    # A pruned model that could not be rebuilt from its config could not be saved.
    locate(model, [site.layout for site in sites])
    return PreparedModel(model, tuple(sites), why_not_single_label(model, output), output, inputs)
