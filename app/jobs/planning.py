"""Compile the plan of a training job; shared by the API and the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.base_models.catalogue import BaseModelEntry
from app.base_models.service import public_source
from app.domain.compiler import compile_plan
from app.domain.job_data import JobData
from app.domain.plan import BaseModelFacts, DatasetNote, DatasetRef, TrainingPlan
from app.domain.spec import RewardJobSpec
from app.domain.text_format import DataForm
from app.models import Dataset


@dataclass(frozen=True)
class JobDatasets:
    """The datasets of a job."""

    train: Dataset
    evaluation: Dataset | None = None
    named: Mapping[str, Dataset] = field(default_factory=dict)

    def form(self) -> DataForm:
        """Return the form that the rows of all datasets share."""
        evaluation = [self.evaluation] if self.evaluation else []
        every = [self.train, *evaluation, *self.named.values()]
        return DataForm.of(*(each.summary for each in every))


def plan_job(
    spec: RewardJobSpec, entry: BaseModelEntry, facts: BaseModelFacts, datasets: JobDatasets
) -> TrainingPlan:
    """Return the plan of a spec on these datasets, for a base model with these facts.

    Raises:
        SpecRejectedError: names every field that does not fit.
    """
    return compile_plan(
        spec,
        public_source(entry),
        facts,
        JobData(
            _reference(datasets.train, spec.training.pairs_per_prompt),
            _reference(datasets.evaluation) if datasets.evaluation else None,
            datasets.form(),
            {name: _reference(each) for name, each in datasets.named.items()},
        ),
    )


def _reference(dataset: Dataset, pairs_per_prompt: int | None = None) -> DatasetRef:
    summary = dataset.summary  # those of earlier versions lack some of the keys
    pair_count = dataset.pair_count
    if pairs_per_prompt is not None and (rows_by_pairs := summary.get("rows_by_pairs")):
        pair_count = sum(
            min(int(pairs), pairs_per_prompt) * rows for pairs, rows in rows_by_pairs.items()
        )
    return DatasetRef(
        id=dataset.id,
        sha256=dataset.sha256,
        pair_count=pair_count,
        skippable_share=summary.get("skippable_share", 0.0),
        chat_template_kwargs=summary.get("chat_template_kwargs", {}),
        warnings=[
            DatasetNote(code=note["code"], message=note["message"], lines=note["lines"])
            for note in summary.get("warnings", [])
        ],
    )
