"""``audit``: anybody can check a published model against its own receipt and results."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.card.render import make_facts, render_card, split_card
from hf_vbp.card.sections import generated_text
from hf_vbp.checkpoint.layout import CARD, CONFIG, CUSTOM_GENERATE, MODELING_FILE, PROCESSORS, RESULTS
from hf_vbp.checkpoint.remote_code import CONFIG_FILES, RemoteCode, inspect_code
from hf_vbp.errors import CheckpointError, ConfigurationError, HubError
from hf_vbp.hub.base_card import base_card_of
from hf_vbp.hub.files import PushFile, code_names, read_json
from hf_vbp.hub.load_checks import check_loads, differing_files, recorded_hashes
from hf_vbp.hub.preflight import all_shapes, check_widths
from hf_vbp.hub.push import full_repo_id, make_api
from hf_vbp.hub.remote import Remote, read_remote
from hf_vbp.hub.retries import DEFAULT, repeat
from hf_vbp.results.record import load_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_WANTED = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json|plan\.json|LICENSE")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: What.
        passed: Whether it holds; None when it could not be checked, ``detail`` says why.
        detail: What was found.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        repo_id: The repository.
        revision: The commit that was looked at.
        directory: Where it was downloaded to.
        checks: Everything that was checked.
    """

    repo_id: str
    revision: str
    directory: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing that was checked failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def lines(self) -> list[str]:
        """The report as lines for people."""
        words = {True: "ok     ", False: "FAILED ", None: "skipped"}
        return [f"{self.repo_id} at {self.revision}"] + [
            f"  {words[check.passed]}  {check.name}: {check.detail}" for check in self.checks
        ]


def audit(
    repo_id: str,
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    check_load: bool = True,
    trust_remote_code: bool = False,
) -> AuditReport:
    """Download a pruned checkpoint and check it against its receipt, and its card against its results.

    Args:
        repo_id: The repository on the Hub.
        revision: Branch, tag, commit or ``refs/pr/N``; None for main. The commit it points to is pinned.
        token: Passed on to huggingface_hub.
        check_load: Load it by each way that applies, in a fresh process.
        trust_remote_code: Whether foreign code may run, that is, code which is no version of this package's
            modeling file. It runs in a process without access tokens. Without this option foreign code is a failed
            check, and the checkpoint is not loaded.

    Raises:
        HubError: The repository cannot be read, or is not a pruned checkpoint.

    Example:
        >>> import hf_vbp
        >>> hf_vbp.audit("me/pruned-vit").passed  # doctest: +SKIP
        True
    """
    api = make_api(token)
    repo_id = full_repo_id(api, repo_id)
    remote = read_remote(api, repo_id, revision)
    if not remote.exists or not remote.has_revision or remote.head is None:
        what = "repository" if not remote.exists else f"revision {revision!r}"
        raise HubError(f"{repo_id}: there is no such {what}, or the token may not see it. Check the name.")
    if not {CONFIG, RESULTS} <= set(remote.files):
        raise HubError(f"{repo_id} holds no {CONFIG} and {RESULTS}: it is not a checkpoint made by hf_vbp.")
    directory = download(api, repo_id, remote)
    results = load_results(directory)
    files = [PushFile.of(name, directory / name) for name in remote.files if (directory / name).is_file()]
    code = inspect_code(directory)
    checks = [
        check_transfer(remote, files),
        check_hashes(results, files),
        check_fit(directory, results),
        *check_card(directory, repo_id, results),
        check_code(code, trust_remote_code),
        *(check_ways(directory, results, code, trust_remote_code) if check_load else []),
    ]
    return AuditReport(repo_id, remote.head, directory, tuple(checks))


def download(api: "HfApi", repo_id: str, remote: Remote) -> Path:
    """Download the files of the checkpoint at the pinned commit, each by its name, and return the folder."""
    from huggingface_hub import snapshot_download

    head = str(remote.head)
    first = repeat(
        lambda: Path(api.hf_hub_download(repo_id, CONFIG, revision=head)).parent,
        "Downloading the config",
        repo_id,
        DEFAULT,
    )
    wanted = {CONFIG, RESULTS, CARD, MODELING_FILE, CUSTOM_GENERATE, *code_names(read_json(first, CONFIG))}
    names = [
        name for name in remote.files if name in wanted or _WANTED.fullmatch(name) or CONFIG_FILES.fullmatch(name)
    ]
    folder = repeat(
        lambda: snapshot_download(
            repo_id, revision=head, allow_patterns=names, token=api.token, endpoint=api.endpoint
        ),
        "Downloading the checkpoint",
        repo_id,
        DEFAULT,
    )
    return Path(folder)


def check_transfer(remote: Remote, files: Sequence[PushFile]) -> Check:
    """Compare what arrived with what the Hub lists."""
    wrong = [file.path for file in remote.changed(files)]
    return Check("download", not wrong, f"differs: {', '.join(wrong)}" if wrong else f"{len(files)} files as listed")


def check_hashes(results: Mapping[str, Any], files: Sequence[PushFile]) -> Check:
    """Compare the files with the hashes in the receipt."""
    recorded = recorded_hashes(results)
    if not recorded:
        return Check("hashes", None, "the receipt names none")
    wrong = differing_files(results, files)
    return Check(
        "hashes", not wrong, f"differs: {', '.join(wrong)}" if wrong else f"{len(recorded)} files as in the receipt"
    )


def check_fit(directory: Path, results: Mapping[str, Any]) -> Check:
    """Compare the widths of config, weights and results."""
    try:
        check_widths(read_json(directory, CONFIG), results, all_shapes(directory).values())
    except CheckpointError as error:
        return Check("widths", False, str(error))
    return Check("widths", True, "config, weights and results agree")


def check_code(code: RemoteCode, trust_remote_code: bool) -> Check:
    """Report foreign code, which fails the audit unless the user allowed it."""
    if not code.findings:
        return Check("code", True, "a version of hf_vbp's file" if code.files else "none")
    return Check("code", None if trust_remote_code else False, f"foreign: {code.summary}")


def check_ways(directory: Path, results: Mapping[str, Any], code: RemoteCode, trust_remote_code: bool) -> list[Check]:
    """Load it by each way that applies and compare with the receipt; foreign code is not run unasked."""
    if code.findings and not trust_remote_code:
        detail = "not run: it comes with foreign code (read it, then allow it with trust_remote_code)"
        return [Check("loading", None, detail)]
    try:
        rows = check_loads(directory, trust_remote_code)
    except CheckpointError as error:
        return [Check("loading", False, str(error))]
    recorded = {row["way"]: row["max_abs_difference"] for row in results.get("receipt", [])}
    checks = []
    for row in rows:
        was = recorded.get(row["way"])
        note = "not in the receipt" if was is None else f"receipt {was:.3g}"
        detail = f"largest difference {row['max_abs_difference']:.3g} ({note}), transformers {row['transformers']}"
        checks.append(Check(f"loading by {row['way']}", True, detail))
    return checks


def check_card(directory: Path, repo_id: str, results: Mapping[str, Any]) -> list[Check]:
    """Make the card again from the results file, and compare every figure with the one that is published."""
    path = directory / CARD
    if not path.is_file():
        return [Check("card", False, "there is none")]
    published = path.read_text(encoding="utf-8")
    try:
        metadata, body = split_card(published)
        base_model = metadata.get("base_model")
        facts = make_facts(
            results,
            repo_id=repo_id,
            base_model=base_model if isinstance(base_model, str) else None,
            base=base_card_of(metadata),
            has_processor=any((directory / name).is_file() for name in PROCESSORS),
        )
        fresh_metadata, fresh_body = split_card(render_card(facts, published))
    except ConfigurationError as error:
        return [Check("card", False, str(error))]
    wrong = differing_sections(generated_text(body), generated_text(fresh_body))
    checks = [
        Check(
            "figures of the card",
            not wrong,
            f"sections that are not what {RESULTS} says: {', '.join(wrong)}" if wrong else f"as in {RESULTS}",
        )
    ]
    same = figures_of_index(metadata) == figures_of_index(fresh_metadata)
    checks.append(Check("model-index", same, f"as in {RESULTS}" if same else f"is not what {RESULTS} says"))
    return checks


def differing_sections(published: Mapping[str, str], fresh: Mapping[str, str]) -> list[str]:
    """Return the names of sections whose figures differ; another wording of another version is no difference."""
    names = [*fresh, *(name for name in published if name not in fresh)]
    return [name for name in names if _NUMBER.findall(published.get(name, "")) != _NUMBER.findall(fresh.get(name, ""))]


def figures_of_index(metadata: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Return (data set, metric, value) of every row of a ``model-index``."""
    rows = []
    for model in metadata.get("model-index") or []:
        for result in model.get("results", []):
            for metric in result.get("metrics", []):
                rows.append((str(result["dataset"]["name"]), str(metric["type"]), metric["value"]))
    return sorted(rows)
