"""Compile the plan of a training job; shared by the API and the worker."""

from __future__ import annotations

from app.base_models.catalogue import BaseModelEntry
from app.base_models.service import public_source
from app.domain.compiler import compile_plan
from app.domain.plan import BaseModelFacts, DatasetNote, DatasetRef, TrainingPlan
from app.domain.spec import RewardJobSpec
from app.models import Dataset


def plan_job(
    spec: RewardJobSpec,
    entry: BaseModelEntry,
    facts: BaseModelFacts,
    train: Dataset,
    evaluation: Dataset | None,
) -> TrainingPlan:
    """Return the plan of a spec on these datasets, for a base model with these facts.

    Raises:
        SpecRejectedError: names every field that does not fit.
    """
    return compile_plan(
        spec,
        public_source(entry),
        facts,
        _reference(train),
        _reference(evaluation) if evaluation else None,
        train.summary["format"],
    )


def _reference(dataset: Dataset) -> DatasetRef:
    notes = dataset.summary.get("warnings", [])  # datasets of earlier versions have none
    return DatasetRef(
        id=dataset.id,
        sha256=dataset.sha256,
        pair_count=dataset.pair_count,
        warnings=[DatasetNote(code=note["code"], message=note["message"]) for note in notes],
    )
