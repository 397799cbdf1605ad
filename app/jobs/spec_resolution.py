"""Look up the catalogue entry and the datasets of a spec; check the operator's limits."""

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
from app.jobs.planning import JobDatasets, plan_job
from app.models import Dataset


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec with its resources; ``facts`` is None if the base model was never inspected."""

    spec: RewardJobSpec
    entry: BaseModelEntry
    datasets: JobDatasets
    facts: BaseModelFacts | None


def resolve_spec(
    session: Session,
    settings: Settings,
    catalogue: Catalogue,
    tenant_id: str,
    spec: RewardJobSpec,
) -> ResolvedSpec:
    """Look up the resources that a spec names.

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
    found = _datasets(session, tenant_id, spec, problems)
    if found is not None:
        form = found.form()
        problems += [FieldProblem(p.loc, p.code, p.message, p.hint) for p in form.problems(spec)]
    if problems or entry is None or found is None:
        raise _invalid_spec(problems)
    return ResolvedSpec(spec, entry, found, facts_for(session, entry))


def _datasets(
    session: Session, tenant_id: str, spec: RewardJobSpec, problems: list[FieldProblem]
) -> JobDatasets | None:
    """Return the datasets of a spec; None for one that does not exist."""
    wanted = {"/train_dataset": spec.train_dataset}
    if isinstance(spec.eval_dataset, str):
        wanted["/eval_dataset"] = spec.eval_dataset
    named = {f"/eval_datasets/{name}": name for name in spec.eval_datasets}
    wanted |= {loc: spec.eval_datasets[name] for loc, name in named.items()}
    found = {loc: _dataset(session, tenant_id, each, loc, problems) for loc, each in wanted.items()}
    there = {loc: dataset for loc, dataset in found.items() if dataset is not None}
    if len(there) < len(wanted):
        return None
    return JobDatasets(
        there["/train_dataset"],
        there.get("/eval_dataset"),
        {name: there[loc] for loc, name in named.items()},
    )


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
        return plan_job(resolved.spec, resolved.entry, facts, resolved.datasets)
    except SpecRejectedError as error:
        raise _invalid_spec(
            [FieldProblem(p.loc, p.code, p.message, p.hint) for p in error.problems]
        ) from error


def _invalid_spec(problems: list[FieldProblem]) -> InvalidSpecError:
    first = problems[0]
    return InvalidSpecError(f"{first.loc}: {first.message}", hint=first.hint, problems=problems)
