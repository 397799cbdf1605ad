"""Stored results of inspections, so that each base model is inspected only once."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy.orm import Session

from app.base_models.catalogue import BaseModelEntry
from app.core.upsert import upsert
from app.domain.plan import BaseModelFacts
from app.models import BaseModelRecord

#: Increase it when an inspection returns more or other facts than before.
FACTS_VERSION = 5


def facts_for(session: Session, entry: BaseModelEntry) -> BaseModelFacts | None:
    """Return the facts about a catalogue entry in its current form, or None."""
    record = session.get(BaseModelRecord, _key(entry))
    return BaseModelFacts.model_validate(record.facts) if record else None


def store_facts(session: Session, entry: BaseModelEntry, facts: BaseModelFacts) -> None:
    """Store the facts about a catalogue entry; they replace earlier ones."""
    row = {"key": _key(entry), "base_model": entry.id, "facts": facts.model_dump(mode="json")}
    # Two workers may have inspected the model at the same time.
    upsert(session, BaseModelRecord, [row], update=("facts", "created_at"))


def _key(entry: BaseModelEntry) -> str:
    identity = [FACTS_VERSION, entry.id, str(entry.source), entry.chat_template, entry.sha256]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
