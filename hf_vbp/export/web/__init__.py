"""A page that runs an exported classifier in the browser with transformers.js."""

from hf_vbp.export.web.npm import PACKAGES, NpmPackage, fetch, fetch_packages
from hf_vbp.export.web.page import check_classifier, page_files, recorded_page_files, write_page

__all__ = [
    "PACKAGES", "NpmPackage", "check_classifier", "fetch", "fetch_packages", "page_files", "recorded_page_files",
    "write_page",
]  # fmt: skip
