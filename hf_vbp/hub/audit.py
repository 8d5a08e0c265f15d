"""``audit``: check a published model against its receipt and results."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.front_matter import LONGEST_CARD, split_card
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.card.sections import defects, generated_text
from hf_vbp.checkpoint.remote_code import CONFIG_FILES, RemoteCode, inspect_code
from hf_vbp.errors import CheckpointError, ConfigurationError, HubError
from hf_vbp.files.layout import CARD, CONFIG, CUSTOM_GENERATE, INDEX, MODELING_FILE, PLAN, PROCESSORS, RESULTS
from hf_vbp.hub.client import full_repo_id, make_api
from hf_vbp.hub.files import PushFile, code_names, read_json, read_text
from hf_vbp.hub.load_checks import check_loads, differing_files, recorded_hashes
from hf_vbp.hub.model_task import model_task
from hf_vbp.hub.preflight import all_shapes, check_widths
from hf_vbp.hub.remote import Remote, read_remote
from hf_vbp.hub.retries import DEFAULT, repeat
from hf_vbp.results.record import load_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_WANTED = re.compile(rf"model(-\d+-of-\d+)?\.safetensors|{re.escape(INDEX)}|{re.escape(PLAN)}|LICENSE")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[+-]?\d+)?")


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        name: Name of the check.
        passed: Whether it passed; None when it was not made, for the reason in ``detail``.
        detail: The finding.
    """

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Attributes:
        repo_id: The repository.
        revision: The audited commit.
        directory: The folder with the downloaded files.
        checks: All checks.
    """

    repo_id: str
    revision: str
    directory: Path
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    @property
    def lines(self) -> list[str]:
        """The report as lines of text."""
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
    cache_dir: str | os.PathLike[str] | None = None,
) -> AuditReport:
    """Download a pruned checkpoint and check it against its receipt, and its card against its results.

    Args:
        repo_id: The repository on the Hub.
        revision: Branch, tag, commit or ``refs/pr/N``; None for main. Everything is read from the commit that it
            points to.
        token: Passed on to huggingface_hub.
        check_load: Load the checkpoint in each applicable way, in a fresh process.
        trust_remote_code: Whether foreign code may run, that is, code that is not a version of the modeling
            file of this package. It runs in a process without access tokens. Without this option foreign code is a
            failed check, and the checkpoint is not loaded.
        cache_dir: Cache of the files from the Hub; by default that of huggingface_hub.

    Raises:
        HubError: The repository cannot be read, or is not a pruned checkpoint.
        CheckpointError: Its config cannot be read.

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
        raise HubError(f"{repo_id}: the {what} does not exist, or the token cannot read it. Check the name.")
    if not {CONFIG, RESULTS} <= set(remote.files):
        raise HubError(f"{repo_id} holds no {CONFIG} and {RESULTS}: it is not a checkpoint made by hf_vbp.")
    directory = download(api, repo_id, remote, None if cache_dir is None else Path(cache_dir))
    files = [PushFile.of(name, directory / name) for name in remote.files if (directory / name).is_file()]
    code = inspect_code(directory)
    checks = [check_transfer(remote, files), check_code(code, trust_remote_code)]
    try:
        results = load_results(directory)
    except CheckpointError as error:
        return AuditReport(repo_id, remote.head, directory, (*checks, Check("results", False, str(error))))
    checks += [
        Check("results", True, "as the schema requires"),
        check_hashes(results, files),
        check_fit(directory, results),
        *check_card(directory, repo_id, results, remote.files),
        *check_exports(results, remote),
        *(check_ways(directory, results, code, trust_remote_code) if check_load else []),
    ]
    return AuditReport(repo_id, remote.head, directory, tuple(checks))


def download(api: "HfApi", repo_id: str, remote: Remote, cache_dir: Path | None = None) -> Path:
    """Download the files of the checkpoint at one commit, each by its name, and return the folder."""
    from huggingface_hub import snapshot_download

    head = str(remote.head)
    first = repeat(
        lambda: Path(api.hf_hub_download(repo_id, CONFIG, revision=head, cache_dir=cache_dir)).parent,
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
            repo_id,
            revision=head,
            allow_patterns=names,
            token=api.token,
            endpoint=api.endpoint,
            cache_dir=cache_dir,
        ),
        "Downloading the checkpoint",
        repo_id,
        DEFAULT,
    )
    return Path(folder)


def check_transfer(remote: Remote, files: Sequence[PushFile]) -> Check:
    """Compare the downloaded files with the listing of the Hub."""
    wrong = [file.path for file in remote.changed(files)]
    return Check("download", not wrong, f"differs: {', '.join(wrong)}" if wrong else f"{len(files)} files as listed")


def check_hashes(results: Mapping[str, Any], files: Sequence[PushFile]) -> Check:
    """Compare the files with the hashes in the receipt."""
    recorded = recorded_hashes(results)
    if not recorded:
        return Check("hashes", None, "the receipt has none")
    wrong = differing_files(results, files)
    return Check(
        "hashes", not wrong, f"differs: {', '.join(wrong)}" if wrong else f"{len(recorded)} files as in the receipt"
    )


def check_exports(results: Mapping[str, Any], remote: Remote) -> list[Check]:
    """Compare the exported files in the repository, by the hashes of the Hub, with those that were compared."""
    recorded = {name: sha256 for row in results.get("exports", []) for name, sha256 in row["files"].items()}
    stored = {name: remote.files[name].sha256 for name in recorded if name in remote.files}
    wrong = sorted(name for name, sha256 in stored.items() if sha256 not in (None, recorded[name]))
    if not stored:
        return []
    detail = f"differs: {', '.join(wrong)}" if wrong else f"{len(stored)} files as compared with the model"
    return [Check("exported files", not wrong, detail)]


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
        return Check("code", True, "a version of the file of hf_vbp" if code.files else "none")
    return Check("code", None if trust_remote_code else False, f"foreign: {code.summary}")


def check_ways(directory: Path, results: Mapping[str, Any], code: RemoteCode, trust_remote_code: bool) -> list[Check]:
    """Load the checkpoint in each applicable way and compare; foreign code runs only where it is allowed."""
    if code.findings and not trust_remote_code:
        detail = "not run: the checkpoint has foreign code (read it, then allow it with trust_remote_code)"
        return [Check("loading", None, detail)]
    try:
        rows = check_loads(directory, trust_remote_code)
    except CheckpointError as error:
        return [Check("loading", False, str(error))]
    recorded = {row["way"]: row["max_abs_difference"] for row in results.get("receipt", [])}
    checks = []
    for row in rows:
        before = recorded.get(row["way"])
        note = "not in the receipt" if before is None else f"receipt {before:.3g}"
        detail = f"largest difference {row['max_abs_difference']:.3g} ({note}), transformers {row['transformers']}"
        checks.append(Check(f"loading by {row['way']}", True, detail))
    return checks


def check_card(
    directory: Path, repo_id: str, results: Mapping[str, Any], exported: Collection[str] = ()
) -> list[Check]:
    """Render the card again from the results file, and compare every figure with the published card."""
    path = directory / CARD
    if not path.is_file():
        return [Check("card", False, "there is none")]
    if path.stat().st_size > 4 * LONGEST_CARD:
        return [Check("card", False, f"it has {path.stat().st_size:,d} bytes, too many to read")]
    try:
        published = read_text(path)
        metadata, body = split_card(published)
        base_model = metadata.get("base_model")
        facts = make_facts(
            results,
            repo_id=repo_id,
            base_model=base_model if isinstance(base_model, str) else None,
            base=BaseCard.of(metadata),
            has_processor=any((directory / name).is_file() for name in PROCESSORS),
            exported=exported,
            task=model_task(results),
        )
        fresh_metadata, fresh_body = split_card(render_card(facts, published))
    except (ConfigurationError, CheckpointError) as error:
        return [Check("card", False, str(error))]
    wrong = [
        *defects(body),
        *(f"the section {name} differs from {RESULTS}" for name in _differing(body, fresh_body)),
    ]
    figures = Check("figures of the card", not wrong, "; ".join(wrong) or f"as in {RESULTS}")
    same = figures_of_index(metadata) == figures_of_index(fresh_metadata)
    return [figures, Check("model-index", same, f"as in {RESULTS}" if same else f"differs from {RESULTS}")]


def _differing(published: str, fresh: str) -> list[str]:
    """Return the names of sections whose figures differ; the wording may be that of another version."""
    ours, theirs = generated_text(fresh), generated_text(published)
    names = [*ours, *(name for name in theirs if name not in ours)]
    return [name for name in names if _NUMBER.findall(theirs.get(name, "")) != _NUMBER.findall(ours.get(name, ""))]


def figures_of_index(metadata: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (data set, metric, value) of every row of a ``model-index``; of a malformed one, its text."""
    index = metadata.get("model-index") or []
    try:
        return sorted(
            (str(result["dataset"]["name"]), str(metric["type"]), repr(metric["value"]))
            for model in index
            for result in model["results"]
            for metric in result["metrics"]
        )
    except (TypeError, KeyError, AttributeError, IndexError):
        return [("", "", repr(index))]
