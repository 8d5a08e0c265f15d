"""Statistics in a folder, one file per site, of which each is read when it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from hf_vbp.errors import StatisticsError, StatisticsMismatchError
from hf_vbp.files.atomic import atomic_write
from hf_vbp.files.text import read_small_text
from hf_vbp.statistics.serialization import load_statistics, save_statistics
from hf_vbp.statistics.site_statistics import SiteStatistics

_NAMES = "sites.json"
_MORE = "pass"


@dataclass(frozen=True, eq=False)
class StoredSites(Sequence[SiteStatistics]):
    """The sites of a folder. Each is read again whenever it is used, so that one at a time is in memory.

    Attributes:
        folder: The folder.
        names: The names of all sites.
        more: Fields that were added to the sites later, by index.
    """

    folder: Path
    names: tuple[str, ...]
    more: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> SiteStatistics: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SiteStatistics]: ...
    def __getitem__(self, index: int | slice) -> SiteStatistics | Sequence[SiteStatistics]:
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        position = range(len(self))[index]
        (site,), _ = load_statistics(_file(self.folder, position), values=False)
        return replace(site, index=position, **self.more.get(position, {}))

    def delete(self) -> None:
        """Delete the files of the sites, and the folder if it holds nothing else."""
        for path in (self.folder / _NAMES, *(_file(self.folder, index) for index in range(len(self)))):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def with_values(self, name: str, values: Iterable[Any]) -> StoredSites:
        """Return the same sites with another value of one small field, which is kept in memory."""
        more = {index: {**self.more.get(index, {}), name: value} for index, value in enumerate(values)}
        return replace(self, more=more)


def with_values(sites: Sequence[SiteStatistics], name: str, values: Iterable[Any]) -> Sequence[SiteStatistics]:
    """Return sites with another value of one field each, such as their elimination curves.

    Args:
        sites: The sites; stored ones are not read.
        name: The field.
        values: One value per site.
    """
    if isinstance(sites, StoredSites):
        return sites.with_values(name, values)
    return tuple(replace(site, **{name: value}) for site, value in zip(sites, values, strict=True))


class SiteStore:
    """The folder while it is filled: the files of the finished sites.

    Args:
        folder: The folder; created when it does not exist.
        identity: Fingerprints that all sites must share, ready for JSON.
        more: Further arguments of the pass that they must share.
        names: The names of all sites.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], more: Mapping[str, Any], names: Sequence[str]
    ) -> None:
        self.folder, self.identity, self.more, self.names = folder, dict(identity), dict(more), tuple(names)

    def open(self) -> dict[int, dict[str, Any]]:
        """Create the folder, and return the fingerprints of the sites that an earlier call finished.

        Raises:
            StatisticsError: The folder cannot be written, holds other files, or holds complete statistics.
            StatisticsMismatchError: It holds sites of another model or pass; names the difference.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            held = sorted(path.name for path in self.folder.iterdir())
        except OSError as error:
            raise StatisticsError(f"Cannot use {self.folder} as the store: {error}. Choose another folder.") from error
        if _NAMES in held:
            raise StatisticsError(
                f"{self.folder} holds complete statistics. Load them with ActivationStatistics.load; for new ones "
                "delete the folder or choose another."
            )
        expected = {_file(self.folder, index).name: index for index in range(len(self.names))}
        # Hidden files are those of a write that was killed.
        other = [name for name in held if name not in expected and not name.startswith(".")]
        if other:
            raise StatisticsError(
                f"{self.folder} holds {other[0]}, which is no file of statistics. Choose an empty folder as the store."
            )
        return {expected[name]: self._checked(expected[name]) for name in held if name in expected}

    def _checked(self, index: int) -> dict[str, Any]:
        (site,), fingerprints = load_statistics(_file(self.folder, index))
        found = {**fingerprints, **fingerprints.get(_MORE, {}), "name": site.name}
        for key, value in {**self.identity, **self.more, "name": self.names[index]}.items():
            if found.get(key) != value:
                raise StatisticsMismatchError(
                    f"{key} differs: the sites in {self.folder} were gathered with {found.get(key)!r}, this pass has "
                    f"{value!r}. Use the same arguments, or another folder."
                )
        return fingerprints

    def add(self, site: SiteStatistics, fingerprints: Mapping[str, Any]) -> None:
        """Write a finished site."""
        described = {**fingerprints, "tokens": site.moments.count, _MORE: self.more}
        save_statistics([replace(site, index=0)], described, _file(self.folder, site.index))

    def close(self, *, write: bool = True) -> StoredSites:
        """Mark the folder as complete, in one of the processes, and return its sites."""
        try:
            if write:
                atomic_write(self.folder / _NAMES, json.dumps(self.names))
        except OSError as error:
            raise StatisticsError(f"Cannot write {self.folder / _NAMES}: {error}. Free some space.") from error
        return StoredSites(self.folder, self.names)


def load_folder(folder: Path) -> tuple[StoredSites, dict[str, Any]]:
    """Return the sites of a complete folder, after checking every file, and the fingerprints of the statistics.

    Raises:
        StatisticsError: The folder is unfinished or damaged.
    """
    try:
        names = json.loads(read_small_text(folder / _NAMES))
    except (OSError, ValueError, RecursionError) as error:
        raise StatisticsError(
            f"{folder} is not a file, and as a folder it holds no complete statistics. An unfinished folder is "
            "continued by collect_statistics with the same arguments."
        ) from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise StatisticsError(f"{folder / _NAMES} does not name the sites. Gather the statistics again.")
    fingerprints: dict[str, Any] = {}
    for index, name in enumerate(names):
        (site,), found = load_statistics(_file(folder, index))
        fingerprints = fingerprints or found
        differs = [key for key in found if key not in ("tokens", "versions") and found[key] != fingerprints.get(key)]
        if site.name != name or differs:
            raise StatisticsError(
                f"{_file(folder, index)} does not belong to the other sites: {', '.join(differs) or 'its name'} "
                "differs. Gather the statistics again."
            )
    fingerprints.pop(_MORE, None)
    return StoredSites(folder, tuple(names)), fingerprints


def _file(folder: Path, index: int) -> Path:
    return folder / f"site-{index:04d}.safetensors"
