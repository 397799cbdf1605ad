"""The public description of a base model's source."""

from __future__ import annotations

from app.base_models.catalogue import BaseModelEntry, LocalSource


def public_source(entry: BaseModelEntry) -> str:
    """Return the source of a base model without paths of the operator's disks."""
    return "local" if isinstance(entry.source, LocalSource) else str(entry.source)
