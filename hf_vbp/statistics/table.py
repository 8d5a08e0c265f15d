"""The rows of ``hf-vbp stats show``, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from hf_vbp.statistics.activation_statistics import ActivationStatistics

# A neuron counts as nearly constant when its variance is below this share of the mean variance of its site,
# that is when its standard deviation is below a hundredth of the site's.
NEARLY_CONSTANT = 1e-4


@dataclass(frozen=True)
class SiteRow:
    """One line of ``hf-vbp stats show``.

    Attributes:
        index: Position of the site in the order of the blocks.
        name: Name of the site.
        width: Number of hidden neurons.
        tokens: Number of tokens that were seen.
        nearly_constant: Share of the neurons, between 0 and 1, whose variance is below ``NEARLY_CONSTANT`` of
            the mean of the site.
        smallest_variance: Smallest variance of a neuron.
        largest_variance: Largest variance of a neuron.
    """

    index: int
    name: str
    width: int
    tokens: int
    nearly_constant: float
    smallest_variance: float
    largest_variance: float


def site_rows(statistics: ActivationStatistics) -> list[SiteRow]:
    """Return one row per site, in the order of the blocks."""
    rows = []
    for site in statistics.sites:
        variance = site.moments.variance
        few = (variance <= NEARLY_CONSTANT * variance.mean()).double().mean()
        smallest, largest = float(variance.min()), float(variance.max())
        rows.append(
            SiteRow(site.index, site.name, site.moments.hidden, site.moments.count, float(few), smallest, largest)
        )
    return rows
