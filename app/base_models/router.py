"""Routes of /v1/base-models."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.base_models.catalogue import BaseModelEntry, UnknownBaseModelError
from app.base_models.dependencies import CatalogueDep
from app.base_models.facts import facts_for
from app.base_models.service import public_source
from app.core.database import transaction
from app.domain.plan import BaseModelFacts
from app.domain.spec import BASE_MODEL_ID
from app.web.dependencies import ReadEngineDep, RequireJobsRead
from app.web.pagination import Page
from app.web.problem_details import error_responses

router = APIRouter(prefix="/v1/base-models", tags=["base models"])


class BaseModelRead(BaseModel):
    """A base model that jobs can use.

    The fields from `revision` on are null until a worker has inspected the model, which happens
    when the first job uses it.
    """

    object: Literal["base_model"] = "base_model"
    id: str
    source: str
    description: str
    license: str | None
    is_inspected: bool
    revision: str | None = Field(None, description="Hub commit or package version.")
    architecture: str | None = None
    head_modules: list[str] | None = Field(
        None, description="Modules of the reward head, always trained and saved in full."
    )
    parameter_count: int | None = None
    max_length: int | None = Field(
        None, description="Largest number of tokens; null for no absolute limit."
    )
    default_targets: list[str] | None = Field(
        None,
        description="Layers that `target_modules` 'auto' adapts, by the last part of their names.",
    )
    has_chat_template: bool | None = None

    @classmethod
    def of(cls, entry: BaseModelEntry, facts: BaseModelFacts | None) -> Self:
        """Build it from a catalogue entry and the stored facts about it."""
        item = cls(
            id=entry.id,
            source=public_source(entry),
            description=entry.description,
            license=entry.license,
            is_inspected=facts is not None,
        )
        if facts is None:
            return item
        targets = facts.attention_modules if facts.is_mixture_of_experts else facts.linear_modules
        return item.model_copy(
            update={
                "revision": facts.revision,
                "architecture": facts.architecture,
                "head_modules": facts.new_modules,
                "parameter_count": facts.parameter_count,
                "max_length": facts.max_positions,
                "default_targets": sorted({path.rsplit(".", 1)[-1] for path in targets}),
                "has_chat_template": facts.chat_template is not None,
            }
        )


@router.get("")
def list_base_models(
    catalogue: CatalogueDep, engine: ReadEngineDep, _principal: RequireJobsRead
) -> Page[BaseModelRead]:
    """List all base models of the operator's catalogue on one page."""
    with transaction(engine) as session:
        data = [_read(session, entry) for entry in catalogue.entries]
    return Page[BaseModelRead](data=data, has_more=False, next=None)


@router.get("/{base_model_id}", responses=error_responses(UnknownBaseModelError))
def get_base_model(
    base_model_id: Annotated[str, Path(pattern=BASE_MODEL_ID)],
    catalogue: CatalogueDep,
    engine: ReadEngineDep,
    _principal: RequireJobsRead,
) -> BaseModelRead:
    """Get a base model."""
    entry = catalogue.get(base_model_id)
    with transaction(engine) as session:
        return _read(session, entry)


def _read(session: Session, entry: BaseModelEntry) -> BaseModelRead:
    return BaseModelRead.of(entry, facts_for(session, entry))
