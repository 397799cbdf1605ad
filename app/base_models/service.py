"""What may be said about a base model's whereabouts."""

from __future__ import annotations

from app.base_models.catalogue import BaseModelEntry, LocalSource


def public_source(entry: BaseModelEntry) -> str:
    """Where the model comes from, without the paths of the operator's disks."""
    return "local" if isinstance(entry.source, LocalSource) else str(entry.source)
