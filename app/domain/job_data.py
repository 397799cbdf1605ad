"""The datasets of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.plan import DatasetRef
from app.domain.text_format import DataForm


@dataclass(frozen=True)
class JobData:
    """Which pairs a job trains on and is evaluated on, and what their rows have in common."""

    train: DatasetRef
    evaluation: DatasetRef | None
    """Of ``eval_dataset``, if the spec names one."""
    form: DataForm
    named: Mapping[str, DatasetRef] = field(default_factory=dict)
    """Of ``eval_datasets``."""
