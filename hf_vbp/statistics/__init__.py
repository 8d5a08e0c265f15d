"""Statistics of hidden neurons: gathered in one pass, exact, saved in one file."""

from hf_vbp.statistics.collect import collect_statistics
from hf_vbp.statistics.fingerprints import weights_fingerprint
from hf_vbp.statistics.store import ActivationStatistics, SiteStatistics

__all__ = ["ActivationStatistics", "SiteStatistics", "collect_statistics", "weights_fingerprint"]
