"""Resolve what a spec names: the catalogue entry and the datasets; check the operator's limits."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.base_models.catalogue import BaseModelEntry, Catalogue, UnknownBaseModelError
from app.base_models.facts import facts_for
from app.core.errors import FieldProblem, InvalidSpecError
from app.core.settings import Settings
from app.datasets import service as datasets
from app.datasets.service import DatasetNotFoundError
from app.domain.plan import BaseModelFacts, TrainingPlan
from app.domain.spec import RewardJobSpec
from app.domain.spec_problems import SpecRejectedError
from app.domain.text_format import DataForm
from app.jobs.planning import plan_job
from app.models import Dataset


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec with what it names; ``facts`` is None if the base model was never inspected."""

    spec: RewardJobSpec
    entry: BaseModelEntry
    train: Dataset
    evaluation: Dataset | None
    facts: BaseModelFacts | None


def resolve_spec(
    session: Session,
    settings: Settings,
    catalogue: Catalogue,
    tenant_id: str,
    spec: RewardJobSpec,
) -> ResolvedSpec:
    """Look up what a spec names.

    Raises:
        InvalidSpecError: names every field that does not fit.
    """
    problems: list[FieldProblem] = []
    limit = settings.quota_runtime_seconds
    if "max_runtime_seconds" in spec.resources.model_fields_set and (
        spec.resources.max_runtime_seconds > limit
    ):
        problems.append(
            FieldProblem(
                "/resources/max_runtime_seconds",
                "out_of_range",
                f"jobs may run for at most {limit} seconds here",
                "Lower it, or omit it.",
            )
        )
    entry = None
    try:
        entry = catalogue.get(spec.base_model)
    except UnknownBaseModelError as error:
        hint = error.hint or error.next_step
        problems.append(FieldProblem("/base_model", error.code, error.detail, hint))
    train = _dataset(session, tenant_id, spec.train_dataset, "/train_dataset", problems)
    evaluation = None
    if isinstance(spec.eval_dataset, str):
        evaluation = _dataset(session, tenant_id, spec.eval_dataset, "/eval_dataset", problems)
    if train and (evaluation or not isinstance(spec.eval_dataset, str)):
        form = DataForm.of(*(each.summary for each in (train, evaluation) if each))
        problems += [FieldProblem(p.loc, p.code, p.message, p.hint) for p in form.problems(spec)]
    if problems or entry is None or train is None:
        raise _invalid_spec(problems)
    return ResolvedSpec(spec, entry, train, evaluation, facts_for(session, entry))


def _dataset(
    session: Session, tenant_id: str, dataset_id: str, loc: str, problems: list[FieldProblem]
) -> Dataset | None:
    try:
        return datasets.get(session, tenant_id, dataset_id)
    except DatasetNotFoundError as error:
        problems.append(
            FieldProblem(loc, error.code, error.detail, "GET /v1/datasets lists your datasets.")
        )
        return None


def plan_resolved(resolved: ResolvedSpec, facts: BaseModelFacts) -> TrainingPlan:
    """Return the plan of a resolved spec for a base model with these facts.

    Raises:
        InvalidSpecError: names every field that does not fit.
    """
    try:
        return plan_job(resolved.spec, resolved.entry, facts, resolved.train, resolved.evaluation)
    except SpecRejectedError as error:
        raise _invalid_spec(
            [FieldProblem(p.loc, p.code, p.message, p.hint) for p in error.problems]
        ) from error


def _invalid_spec(problems: list[FieldProblem]) -> InvalidSpecError:
    first = problems[0]
    return InvalidSpecError(f"{first.loc}: {first.message}", hint=first.hint, problems=problems)
