"""The datasets of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.plan import DatasetRef
from app.domain.text_format import DataForm


@dataclass(frozen=True)
class JobData:
    """The training and evaluation datasets of a job, and the form of their rows."""

    train: DatasetRef
    evaluation: DatasetRef | None
    """The dataset of ``eval_dataset``, if the spec names one."""
    form: DataForm
    named: Mapping[str, DatasetRef] = field(default_factory=dict)
    """The datasets of ``eval_datasets``, by name."""
