"""A page that runs an exported classifier in the browser with transformers.js."""

from hf_vbp.export.web.npm import PACKAGES, NpmPackage, fetch
from hf_vbp.export.web.page import page_files, write_page

__all__ = ["PACKAGES", "NpmPackage", "fetch", "page_files", "write_page"]
