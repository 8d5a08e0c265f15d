"""One model, validated once."""

from collections.abc import Callable, Hashable, Mapping, Sequence
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
from hf_vbp.adapters.structure import check_shapes, check_structure
from hf_vbp.config.requirements import Requirements
from hf_vbp.errors import ConfigurationError, UnsupportedModelError
from hf_vbp.inputs.batch import first_image
from hf_vbp.inputs.example import example_batch
from hf_vbp.modeling.config_record import locate

Batch = Mapping[str, Any] | Callable[[], Mapping[str, Any] | None] | None
"""A batch that the processor of a model made, or a function that gets it when it is needed; None for no batch."""


class Verification:
    """The forward passes that verify the sites of a model, made once, when their result is needed.

    Args:
        model: The model; one without weights is not run.
        sites: Its MLP sites.
        batch: The inputs; without any, a batch made from the configs.
        without_weights: Whether the model is on the meta device.
    """

    def __init__(
        self, model: nn.Module, sites: Sequence[MLPSite], batch: Batch = None, *, without_weights: bool = False
    ) -> None:
        self._model, self._sites, self._batch = model, sites, batch
        self._result: tuple[Any, Mapping[str, Any] | None] | None = (None, None) if without_weights else None

    def offer(self, batch: Batch) -> None:
        """Use this batch, unless another one was given or the passes were made."""
        if self._batch is None:
            self._batch = batch

    def result(self) -> tuple[Any, Mapping[str, Any] | None]:
        """Return the output and the inputs of the forward pass.

        Raises:
            UnsupportedModelError: A site has another structure, or there are no inputs.
        """
        if self._result is None:
            batch = self._batch() if callable(self._batch) else self._batch
            inputs = example_batch(self._model) if batch is None else first_image(batch)
            self._result = check_structure(self._model, self._sites, inputs), inputs
        return self._result


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model whose MLP sites were found and verified, with its fingerprint and float64 weights.

    Valid as long as the model is not changed; :func:`hf_vbp.prune` makes one and passes it to every step.

    Attributes:
        model: The dense model; it is not changed.
        sites: Its MLP sites, in block order.
        verification: The forward passes that verify the sites.
        latencies: Measurements that a later step takes over, by widths and conditions.
        costs: Closed forms of the cost that a later step takes over.
    """

    model: Any
    sites: tuple[MLPSite, ...]
    verification: Verification
    latencies: dict[Hashable, dict[str, Any]] = field(default_factory=dict, repr=False)
    costs: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def verified(self) -> "PreparedModel":
        """Verify the sites by forward passes, once, and return the model.

        Raises:
            UnsupportedModelError: A site has another structure, or no input can be made for the model.
        """
        self.verification.result()
        return self

    @property
    def output(self) -> Any:
        """The output of one forward pass; None where the model has no weights."""
        return self.verification.result()[0]

    @property
    def inputs(self) -> Mapping[str, Any] | None:
        """The batch of this forward pass: the first image of the data, or one made from the configs."""
        return self.verification.result()[1]

    @cached_property
    def not_single_label(self) -> str | None:
        """Why the output is not the logits of a single-label classifier; None where it is."""
        return why_not_single_label(self.model, self.output)

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
                        f"{site.layout.down} has no bias, so {method} has nowhere to fold the mean of the removed "
                        'neurons. Use compensation="linear", which needs no bias, or "none".'
                    )


def prepare(model: nn.Module | PreparedModel, batch: Batch = None) -> PreparedModel:
    """Find and verify the MLP sites of a model.

    Args:
        model: A whole, plain transformers model, or a prepared one, which is returned.
        batch: A batch that the processor of the model made; its first image serves for the forward passes that verify
            the sites, and for counting MACs. By default one made from the configs.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or one whose structure differs from that of its adapter. Or
            no batch can be made from its configs.
        NonFiniteError: The weights hold NaN or infinity.

    Example:
        >>> prepared = hf_vbp.adapters.prepare(model, batch)  # doctest: +SKIP
        >>> statistics = hf_vbp.collect_statistics(prepared, batches)  # doctest: +SKIP
    """
    return prepare_sites(model, batch).verified()


def prepare_sites(model: nn.Module | PreparedModel, batch: Batch = None) -> PreparedModel:
    """Find the MLP sites of a model; they are verified when the result is first needed, or by ``verified()``.

    So everything that needs no forward pass is checked before the first batch of the data is read.

    Args:
        model: As for :func:`prepare`.
        batch: As for :func:`prepare`. A prepared model takes it where it has none.

    Raises:
        UnsupportedModelError: The model has no MLP sites, or their widths disagree.
        NonFiniteError: The weights hold NaN or infinity.
    """
    if isinstance(model, PreparedModel):
        model.verification.offer(batch)
        return model
    sites = find_sites(model)
    check_finite_weights(sites)
    check_shapes(model, sites)
    return _prepared(model, sites, Verification(model, sites, batch))


def prepare_structure(model: nn.Module) -> PreparedModel:
    """Find the MLP sites of a model on the meta device, for steps that read no weights.

    Args:
        model: A whole, plain transformers model without weights.

    Raises:
        UnsupportedModelError: The model has no MLP sites.
    """
    check_prunable(model, without_weights=True)
    sites = sites_of(model)
    return _prepared(model, sites, Verification(model, sites, without_weights=True))


def _prepared(model: nn.Module, sites: Sequence[MLPSite], verification: Verification) -> PreparedModel:
    if not any(site.intermediate_size for site in sites):
        raise UnsupportedModelError(
            f"All {len(sites)} MLPs of {type(model).__name__} have 0 hidden neurons, so nothing can be pruned. Name "
            "the dense model, or restore the original config.json."
        )
    # A pruned model that could not be rebuilt from its config could not be saved.
    locate(model, [site.layout for site in sites])
    return PreparedModel(model, tuple(sites), verification)
