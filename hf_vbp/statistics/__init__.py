"""Statistics of hidden neurons: gathered in one pass, exact, saved in one file."""

from hf_vbp.statistics.collect import collect_statistics, statistics_bytes
from hf_vbp.statistics.enough import HalvesAgreement, Overlap, halves_agreement
from hf_vbp.statistics.fingerprints import weights_fingerprint
from hf_vbp.statistics.store import ActivationStatistics, SiteStatistics
from hf_vbp.statistics.table import FileRow, SiteRow, file_rows, site_rows

__all__ = [
    "ActivationStatistics",
    "FileRow",
    "HalvesAgreement",
    "Overlap",
    "SiteRow",
    "SiteStatistics",
    "collect_statistics",
    "file_rows",
    "halves_agreement",
    "site_rows",
    "statistics_bytes",
    "weights_fingerprint",
]
