"""The facts that the card of the base model contributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BaseCard:
    """License and data sets of the base model, as far as its card names them. Nothing is guessed.

    Attributes:
        license: License identifier.
        license_name: Name of a license without an identifier.
        license_link: Address of that license.
        datasets: Data sets that the base model was trained on.
    """

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    datasets: tuple[str, ...] = ()

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "BaseCard":
        """Return the facts in the metadata of a card; values of another type are left out."""
        license = metadata.get("license")
        license = license[0] if isinstance(license, list) and license else license
        datasets = metadata.get("datasets") or []
        datasets = [datasets] if isinstance(datasets, str) else datasets
        return cls(
            license=_text(license),
            license_name=_text(metadata.get("license_name")),
            license_link=_text(metadata.get("license_link")),
            datasets=tuple(item for item in datasets if isinstance(item, str)) if isinstance(datasets, list) else (),
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
