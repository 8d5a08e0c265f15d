"""What a criterion or a compensation needs before it can run."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Requirements:
    """What must be gathered from the images, and what the model must have.

    ``a | b`` needs what either needs.

    Attributes:
        covariances: Co-moments of the hidden neurons, ``intermediate_size ** 2`` doubles per site. Means and
            variances are always gathered.
        output_metric: ``G = E[g g^T]`` at the output of each site, from one backward pass per batch. Gathered where
            the model's output allows it; otherwise all output directions count equally.
        token_weights: Co-moments in which tokens count by the norm of their gradient, as many doubles again.
            Gathered where the output metric is.
        halves: Co-moments of one half of the images, as many doubles again.
        saliency: Gradients of the loss with respect to a multiplier on each hidden neuron, from a pass of their own.
        bias: A bias on ``fc2``, which takes the mean output of the removed neurons.
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
        """Return the names of what is needed."""
        return [f.name for f in fields(self) if getattr(self, f.name)]
