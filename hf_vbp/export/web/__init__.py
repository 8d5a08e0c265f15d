"""A page that runs an exported classifier in the browser with transformers.js."""

from hf_vbp.export.web.npm import PACKAGES, NpmPackage, fetch, fetch_packages
from hf_vbp.export.web.page import page_files, write_page

__all__ = ["PACKAGES", "NpmPackage", "fetch", "fetch_packages", "page_files", "write_page"]
