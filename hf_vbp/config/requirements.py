"""The requirements of a criterion or a compensation."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Requirements:
    """Statistics that must be gathered from the images, and properties that the model must have.

    ``a | b`` is the union of two requirements, ``a - b`` those of ``a`` without those of ``b``.

    Attributes:
        covariances: Co-moments of the hidden neurons, ``intermediate_size ** 2`` doubles per site. Means and
            variances are always gathered.
        output_metric: ``G = E[g g^T]`` at the output of each site, from one backward pass per batch. Gathered where
            the model's output allows it; otherwise all output directions count equally.
        token_weights: Co-moments in which tokens are weighted by the norm of their gradient, of the same size as
            ``covariances``. Gathered where the output metric is.
        halves: Co-moments of one half of the images, of the same size as ``covariances``.
        saliency: Gradients of the loss with respect to a multiplier on each hidden neuron, from a separate pass.
        bias: A bias on ``fc2``, to which the mean output of the removed neurons is added.
    """

    covariances: bool = False
    output_metric: bool = False
    token_weights: bool = False
    halves: bool = False
    saliency: bool = False
    bias: bool = False

    def __or__(self, other: "Requirements") -> "Requirements":
        return Requirements(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "Requirements") -> "Requirements":
        return Requirements(*(getattr(self, f.name) and not getattr(other, f.name) for f in fields(self)))

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) for f in fields(self))

    def names(self) -> list[str]:
        """Return the names of the requirements."""
        return [f.name for f in fields(self) if getattr(self, f.name)]
