"""``hf-vbp audit``: check a published checkpoint."""

import sys

from hf_vbp.cli import groups
from hf_vbp.cli.console import print_json, print_lines
from hf_vbp.cli.push import RepoId, Revision


def audit(
    repo_id: RepoId,
    revision: Revision = None,
    trust_remote_code: groups.TrustRemoteCode = False,
    cache_dir: groups.CacheDir = None,
    json: groups.Json = False,
) -> None:
    """Download a pruned checkpoint and check its weights, its receipt and the figures of its card."""
    from hf_vbp.hub.audit import audit as run_audit

    report = run_audit(repo_id, revision, trust_remote_code=trust_remote_code, cache_dir=cache_dir)
    if json:
        checks = [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in report.checks]
        print_json({"repo_id": report.repo_id, "revision": report.revision, "passed": report.passed, "checks": checks})
    else:
        print_lines(report.lines)
    if not report.passed:
        sys.exit(1)
