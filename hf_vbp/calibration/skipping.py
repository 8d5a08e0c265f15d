"""What a pass without gradients need not compute: the second product of the last MLP."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hf_vbp.adapters.base import MLPSite
from hf_vbp.errors import StatisticsError


class LastProduct:
    """Leaves out ``fc2`` of the site that is used last: nothing that is gathered depends on its output.

    The first batch shows in which order the sites are used. From the second on, the last one gives zeros of the right
    shape, which only the head of the model sees. That is 1 to 2 % of the forward pass of a DeiT. Where somebody else
    listens to the model or runs ``fc2`` his own way, and where a site is used more than once, nothing is left out.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        # Somebody's hooks would be told of zeros, and an own `forward` be lost.
        self.allowed = not any(module._forward_hooks or "forward" in vars(module) for module in model.modules())
        self.used: list[MLPSite] = []
        self.last: MLPSite | None = None
        self._reached = False

    def use(self, site: MLPSite) -> None:
        """Take note that the input of ``site`` was seen.

        Raises:
            StatisticsError: The sites are used in another order than in the first batch.
        """
        if self.last is None:
            self.used.append(site)
        elif self._reached:
            raise StatisticsError(
                f"site {site.name} is used after {self.last.name} in this batch and was not in the first one; the "
                "model must use its MLPs in the same order for every batch"
            )
        self._reached = site is self.last

    def next_batch(self) -> None:
        """Get ready for a batch; the second one is the first that is shortened."""
        self._reached = False
        if self.allowed and self.last is None and self.used:
            if len(self.used) == len({site.index for site in self.used}):
                self.last = self.used[-1]
                self.last.fc2.forward = _zeros(self.last.hidden_size)  # type: ignore[method-assign, assignment]
            else:
                self.allowed = False
        self.used.clear()

    def restore(self) -> None:
        """Give the model back its product."""
        if self.last is not None:
            del self.last.fc2.forward
            self.last = None


def _zeros(size: int) -> Callable[[Tensor], Tensor]:
    def forward(hidden_states: Tensor) -> Tensor:
        return hidden_states.new_zeros(*hidden_states.shape[:-1], size)

    return forward
